"""Contrastive losses."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from paramcrop import dist


def nt_xent(z_1: Tensor, z_2: Tensor, temperature: float = 0.1) -> tuple[Tensor, dict[str, Tensor]]:
    """NT-Xent over the views of all ranks, Eq. 1 and 2.

    Each rank compares its own 2B views with the 2B x world_size views of the global batch, gathered with gradient. The
    mean of the losses over ranks is the loss of Eq. 1; with DDP's mean of gradients, its gradient is that of Eq. 1.

    Args:
        z_1, z_2: (B, D) embeddings of two views of the same B videos, not normalised; B must be equal on all ranks.
        temperature: tau, > 0.

    Returns:
        The loss of this rank (scalar, float32) and the mean cosine similarity of its positive and negative pairs.
    """
    z_1, z_2 = F.normalize(z_1.float(), dim=1), F.normalize(z_2.float(), dim=1)
    b, first = len(z_1), dist.rank() * len(z_1)
    everyone = torch.cat([dist.gather(z_1), dist.gather(z_2)])  # (2N, D): all first views, then all second views
    n = len(everyone) // 2
    cosine = torch.cat([z_1, z_2]) @ everyone.T  # (2B, 2N): c_ij
    # Video i of this rank is row first + i of the first views and row n + first + i of the second views.
    own = torch.arange(first, first + b, device=z_1.device)
    itself, partner = torch.cat([own, own + n]), torch.cat([own + n, own])
    # -inf drops k = i from the denominator (1[k != i]); what is left is a cross-entropy with the partner as the class.
    logits = (cosine / temperature).scatter(1, itself[:, None], -math.inf)
    positive = cosine.gather(1, partner[:, None])
    others = cosine.sum(1, keepdim=True) - positive - cosine.gather(1, itself[:, None])
    scalars = {"similarity_positive": positive.mean(), "similarity_negative": (others / max(2 * n - 2, 1)).mean()}
    return F.cross_entropy(logits, partner), {name: value.detach() for name, value in scalars.items()}


def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float = 0.1) -> tuple[Tensor, dict[str, Tensor]]:
    """InfoNCE with a queue (MoCo): the positive of a query is its key, the negatives are the keys in the queue.

    Args:
        query, key: (B, D) embeddings of two views of the same B videos, not normalised.
        queue: (K, D) normalised keys of earlier batches; takes no gradient.
        temperature: tau, > 0.

    Returns:
        The loss of this rank (scalar, float32) and the mean cosine similarity of its positive and negative pairs.
    """
    query, key = F.normalize(query.float(), dim=1), F.normalize(key.float(), dim=1)
    positive, negative = (query * key).sum(1, keepdim=True), query @ queue.detach().T
    logits = torch.cat([positive, negative], 1) / temperature
    loss = F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))
    scalars = {"similarity_positive": positive.mean(), "similarity_negative": negative.mean()}
    return loss, {name: value.detach() for name, value in scalars.items()}
