"""Linear heads on stored features: every learning rate and weight decay at once, chosen without the test set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from paramcrop.data.groups import hold_out
from paramcrop.errors import DataError
from paramcrop.training.optim import cosine_decay

MOMENTUM = 0.9
BATCH = 256


class Choice(NamedTuple):
    """The choice made on the held-out videos.

    Attributes:
        lr, weight_decay: the best pair; among equals, the first.
        accuracy: float (lrs, weight decays), on the held-out videos.
    """

    lr: float
    weight_decay: float
    accuracy: Tensor


def choose(
    features: Tensor,
    labels: Tensor,
    groups: Sequence[str],
    classes: int,
    lrs: tuple[float, ...],
    weight_decays: tuple[float, ...],
    held_out: float,
    epochs: int,
    seed: int,
) -> Choice:
    """Train one head per (lr, weight decay) on part of the *training* videos (n, D), and test it on the rest.

    Args:
        groups: name of each video's group of near-duplicates; no group is in both parts.

    Raises:
        DataError: nothing can be held out.
    """
    held = torch.tensor(hold_out(groups, labels.tolist(), held_out, seed))
    if not held.any():
        raise DataError("choosing a learning rate needs a class with readable videos of two sources, but there is none")
    grid = list(product(lrs, weight_decays))
    weights, biases = train_heads(features[~held], labels[~held], classes, grid, epochs, seed)
    predicted = (torch.einsum("nd,gcd->gnc", normalised(features[held]), weights) + biases[:, None]).argmax(2)
    accuracy = (predicted == labels[held]).float().mean(1)
    accuracy[~weights.isfinite().all(2).all(1)] = 0.0  # such a learning rate is too large
    lr, weight_decay = grid[int(accuracy.argmax())]
    return Choice(lr, weight_decay, accuracy.view(len(lrs), len(weight_decays)))


def train_heads(
    features: Tensor, labels: Tensor, classes: int, grid: list[tuple[float, float]], epochs: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Train one linear head per (lr, weight decay) of ``grid``, all at once, on normalised features (n, D).

    SGD with momentum on the cross-entropy, with a cosine to 0; every head sees the same batches in the same order.

    Returns:
        Weights (G, C, D) and biases (G, C).
    """
    x, random = normalised(features), torch.Generator().manual_seed(seed)
    lr = torch.tensor([lr for lr, _ in grid])[:, None, None]
    decay = torch.tensor([weight_decay for _, weight_decay in grid])[:, None, None]
    weights, biases = torch.zeros(len(grid), classes, x.shape[1]), torch.zeros(len(grid), classes, 1)
    speed_w, speed_b = torch.zeros_like(weights), torch.zeros_like(biases)
    steps, step = epochs * math.ceil(len(x) / BATCH), 0
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=random).split(BATCH):
            scale = cosine_decay(step, steps)
            logits = torch.einsum("nd,gcd->gcn", x[rows], weights) + biases
            # The gradient of the mean cross-entropy by the logits; written out, it serves all heads in one einsum.
            error = (logits.softmax(1) - F.one_hot(labels[rows], classes).T) / len(rows)
            speed_w = MOMENTUM * speed_w + torch.einsum("gcn,nd->gcd", error, x[rows]) + decay * weights
            speed_b = MOMENTUM * speed_b + error.sum(2, keepdim=True)
            weights, biases = weights - lr * scale * speed_w, biases - lr * scale * speed_b
            step += 1
    return weights, biases[..., 0]


def normalised(features: Tensor) -> Tensor:
    """Scale each feature (n, D) to length sqrt(D), so that entries are about 1 for every D."""
    scaled: Tensor = F.normalize(features.float(), dim=1) * features.shape[1] ** 0.5
    return scaled
