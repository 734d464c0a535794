"""Figures that tell a network that learns from one whose embeddings are all alike: pure functions of tensors.

Sources: RankMe, Garrido et al. 2023 (``effective_rank``); SimSiam, Chen and He 2021 (``spread``); Wang and Isola 2020
(``alignment``, ``uniformity``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor


def effective_rank(z: Tensor) -> Tensor:
    """exp(-sum p_k ln p_k), p_k = sigma_k / sum sigma, of the singular values of embeddings (N, D) -> scalar.

    It lies in [1, min(N, D)]; NaN if a value is not finite. The singular values are the roots of the eigenvalues of the
    smaller of Z Z^T and Z^T Z. Those are computed on the CPU: cuSOLVER would take GPU memory for its workspace.
    """
    z = z.double()
    gram = (z @ z.T if z.shape[0] < z.shape[1] else z.T @ z).cpu()
    if not gram.isfinite().all():  # eigvalsh would raise an error of its own
        return torch.full((), math.nan, device=z.device)
    sigma = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = sigma / sigma.sum().clamp(min=torch.finfo(sigma.dtype).tiny)
    rank: Tensor = torch.special.entr(shares).sum().exp().float()
    return rank.to(z.device)


def spread(z: Tensor) -> Tensor:
    """Standard deviation of normalised embeddings (N, D), mean over dimensions, times sqrt(D) -> scalar in [0, 1].

    About 1: spread over all directions; 0: all alike.
    """
    deviation: Tensor = unit(z).std(0, correction=0) * z.shape[1] ** 0.5
    return deviation.mean()


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance of the normalised embeddings (N, D) of two views of the same videos -> scalar in [0, 4]."""
    distance: Tensor = (unit(x) - unit(y)).square().sum(1)
    return distance.mean()


def uniformity(z: Tensor) -> Tensor:
    """ln of the mean of exp(-2 d^2) over pairs of normalised embeddings (N, D), N > 1, d apart -> scalar in [-8, 0].

    0: all alike; about -4 or less: spread evenly.
    """
    cosine = unit(z) @ unit(z).T
    others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    return (-4 * (1 - cosine[others])).exp().mean().log()  # d^2 = 2 - 2 cosine


def similarity_gap(x: Tensor, y: Tensor) -> Tensor:
    """Mean cosine of two views (N, D) of a video minus that of views of different videos of the batch -> scalar.

    It lies in [-2, 2]; N > 1. Unlike the loss of MoCo it does not depend on the age of the queue's keys.
    """
    cosine = unit(x) @ unit(y).T
    n, same = len(cosine), cosine.diagonal().sum()
    return same / n - (cosine.sum() - same) / (n * (n - 1))


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of all values of tensors together, at least one -> scalar."""
    norm: Tensor = torch.stack(torch._foreach_norm(list(tensors))).norm()
    return norm


def unit(z: Tensor) -> Tensor:
    """Embeddings (N, D), normalised, float32."""
    normalised: Tensor = F.normalize(z.float(), dim=1)
    return normalised
