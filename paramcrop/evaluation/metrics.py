"""Metrics of a network's outputs: pure functions of tensors on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Predictions(NamedTuple):
    """Predictions for n videos and C classes.

    Attributes:
        probabilities: float32 (n, C), the mean softmax over each video's clips.
        clip_correct: float32 (n,), the share of each video's clips that are classified correctly on their own.
    """

    probabilities: Tensor
    clip_correct: Tensor


def average_clips(logits: Sequence[Tensor], labels: Tensor) -> Predictions:
    """Logits of each video's clips, n x (K_i, C), and labels (n,) -> predictions: first softmax, then the mean."""
    softmax = [clips.float().softmax(1) for clips in logits]
    right = [(clips.argmax(1) == label).float().mean() for clips, label in zip(softmax, labels, strict=True)]
    return Predictions(torch.stack([clips.mean(0) for clips in softmax]), torch.stack(right))


def top_k(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the label is among the k highest of scores (n, C) -> bool (n,); always, with fewer than k classes."""
    highest = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return (highest == labels[:, None]).any(1)


def accuracy_per_class(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Predicted and true classes (n,) -> accuracy of each class, float32 (C,); NaN for a class without videos."""
    total = torch.bincount(labels, minlength=classes)
    right = torch.bincount(labels[predicted == labels], minlength=classes)
    return right / total  # 0 / 0 is NaN


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Confusion matrix, int64 (C, C): the number of videos of class (row) that are predicted as class (column)."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


def cosine(queries: Tensor, gallery: Tensor, centre: bool = False) -> Tensor:
    """Similarities of features (n, D) and (m, D) -> float32 (n, m) in [-1, 1].

    Args:
        centre: first subtract each set's own mean. CoCLR's protocol does so; a query then depends on the others.
    """
    queries, gallery = queries.float(), gallery.float()
    if centre:
        queries, gallery = queries - queries.mean(0), gallery - gallery.mean(0)
    return F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T


def recall_at(similarity: Tensor, labels: Tensor, gallery_labels: Tensor, k: int) -> Tensor:
    """R@k: whether any of the k nearest gallery videos (or of all, if fewer) has the query's label -> bool (n,)."""
    nearest = similarity.topk(min(k, similarity.shape[1]), dim=1).indices
    return (gallery_labels[nearest] == labels[:, None]).any(1)


def knn_votes(similarity: Tensor, gallery_labels: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """Votes of the k nearest for their classes, weighted by exp(similarity / temperature) -> shares (n, C)."""
    values, nearest = similarity.topk(min(k, similarity.shape[1]), dim=1)
    weights = (values / temperature).softmax(1)
    votes = torch.zeros(len(similarity), classes, dtype=weights.dtype)
    return votes.scatter_add_(1, gallery_labels[nearest], weights)
