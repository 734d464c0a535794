"""Figures from what a network says of each video. Everything is a pure function of tensors on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
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
