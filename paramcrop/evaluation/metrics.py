"""Figures from what a network says of each video. Everything is a pure function of tensors on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Predictions(NamedTuple):
    """Of n videos of C classes.

    Attributes:
        probabilities: float32 (n, C), each video's mean over its clips of the softmax.
        clip_correct: float32 (n,), the share of a video's clips that are right by themselves.
    """

    probabilities: Tensor
    clip_correct: Tensor


def average_clips(logits: Sequence[Tensor], labels: Tensor) -> Predictions:
    """Logits of each video's clips, n x (K_i, C), and labels (n,) -> its predictions: softmax, then the mean."""
    softmax = [clips.float().softmax(1) for clips in logits]
    right = [(clips.argmax(1) == label).float().mean() for clips, label in zip(softmax, labels, strict=True)]
    return Predictions(torch.stack([clips.mean(0) for clips in softmax]), torch.stack(right))


def top_k(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the label is among the k highest of scores (n, C) -> bool (n,). Fewer than k classes: always."""
    highest = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return (highest == labels[:, None]).any(1)


def accuracy_per_class(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Predicted and true classes (n,) -> float32 (C,), NaN for a class with no video."""
    total = torch.bincount(labels, minlength=classes)
    right = torch.bincount(labels[predicted == labels], minlength=classes)
    return right / total  # 0 / 0 is NaN


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """-> int64 (C, C): videos of class row that were taken for class column."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


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
