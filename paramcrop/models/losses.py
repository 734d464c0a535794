"""Contrastive losses."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from paramcrop import dist


def nt_xent(z_1: Tensor, z_2: Tensor, temperature: float = 0.1) -> tuple[Tensor, dict[str, Tensor]]:
    """NT-Xent, Eq. 1 and 2, over the views of all ranks.

    Each rank takes the rows of its own 2B views against the 2B x world_size views of the whole batch, gathered with
    gradient; the mean over ranks is Eq. 1's loss and, under DDP, its gradient is Eq. 1's gradient.

    Args:
        z_1, z_2: (B, D) embeddings of two views of the same B videos, not normalised; B equal on all ranks.
        temperature: tau, > 0.

    Returns:
        This rank's loss (scalar, float32), and the mean cosine similarity of its positive and its negative pairs.
    """
    z_1, z_2 = F.normalize(z_1.float(), dim=1), F.normalize(z_2.float(), dim=1)
    b, first = len(z_1), dist.rank() * len(z_1)
    everyone = torch.cat([dist.gather(z_1), dist.gather(z_2)])  # (2N, D): all first views, then all second
    n = len(everyone) // 2
    cosine = torch.cat([z_1, z_2]) @ everyone.T  # (2B, 2N): c_ij
    own = torch.arange(first, first + b, device=z_1.device)
    itself, partner = torch.cat([own, own + n]), torch.cat([own + n, own])
    logits = (cosine / temperature).scatter(1, itself[:, None], -math.inf)  # 1[k != i]
    positive = cosine.gather(1, partner[:, None])
    others = cosine.sum(1, keepdim=True) - positive - cosine.gather(1, itself[:, None])
    scalars = {"similarity_positive": positive.mean(), "similarity_negative": (others / max(2 * n - 2, 1)).mean()}
    return F.cross_entropy(logits, partner), {name: value.detach() for name, value in scalars.items()}


def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float = 0.1) -> tuple[Tensor, dict[str, Tensor]]:
    """InfoNCE against a queue (MoCo): each query's own key among the keys of earlier batches.

    Args:
        query, key: (B, D) embeddings of two views of the same B videos, not normalised.
        queue: (K, D) normalised keys of other videos; takes no gradient.
        temperature: tau, > 0.

    Returns:
        This rank's loss (scalar, float32), and the mean cosine similarity of its positive and its negative pairs.
    """
    query, key = F.normalize(query.float(), dim=1), F.normalize(key.float(), dim=1)
    positive, negative = (query * key).sum(1, keepdim=True), query @ queue.detach().T
    logits = torch.cat([positive, negative], 1) / temperature
    loss = F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))
    scalars = {"similarity_positive": positive.mean(), "similarity_negative": negative.mean()}
    return loss, {name: value.detach() for name, value in scalars.items()}
