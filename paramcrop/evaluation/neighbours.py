"""Retrieval and k-NN by the cosine of features. Pure functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine(queries: Tensor, gallery: Tensor, centre: bool = False) -> Tensor:
    """Similarities of features (n, D) and (m, D) -> float32 (n, m) in [-1, 1].

    Args:
        centre: subtract each set's own mean before (CoCLR's protocol does; it sees the other queries).
    """
    queries, gallery = queries.float(), gallery.float()
    if centre:
        queries, gallery = queries - queries.mean(0), gallery - gallery.mean(0)
    return F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T


def recall_at(similarity: Tensor, labels: Tensor, gallery_labels: Tensor, k: int) -> Tensor:
    """R@k: whether any of the k nearest has the query's label -> bool (n,). Fewer than k videos: all of them."""
    nearest = similarity.topk(min(k, similarity.shape[1]), dim=1).indices
    return (gallery_labels[nearest] == labels[:, None]).any(1)


def knn_votes(similarity: Tensor, gallery_labels: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """The k nearest vote for their classes, with weight exp(similarity / temperature) -> shares of the vote (n, C)."""
    values, nearest = similarity.topk(min(k, similarity.shape[1]), dim=1)
    weights = (values / temperature).softmax(1)
    votes = torch.zeros(len(similarity), classes, dtype=weights.dtype)
    return votes.scatter_add_(1, gallery_labels[nearest], weights)
