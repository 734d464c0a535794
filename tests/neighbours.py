"""k-NN on the features of made-up clips."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from paramcrop.crops.resample import to_float
from paramcrop.data.synthetic import CLASSES
from paramcrop.evaluation.features import Forward, Normalise
from paramcrop.evaluation.metrics import cosine, knn_votes
from paramcrop.settings.config import Config


def features(config: Config, backbone: nn.Module, clips: np.ndarray) -> Tensor:
    """Of clips, uint8 (n, frames, size, size, 3) -> (n, channels), in the mode that the backbone is in."""
    forward = Forward(Normalise(config.augment.mean, config.augment.std), torch.device("cpu"), torch.float32)
    with torch.no_grad():
        parts = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).split(40)
        return torch.cat([forward(backbone, to_float(part)) for part in parts])


def knn_accuracy(config: Config, backbone: nn.Module, clips: np.ndarray, train: int) -> float:
    """Of 20-NN among the first ``train`` clips, on the others, which have all classes in turn."""
    found = features(config, backbone.eval(), clips)
    labels: Tensor = torch.arange(len(clips)) % len(CLASSES)
    votes = knn_votes(cosine(found[train:], found[:train]), labels[:train], len(CLASSES), 20, 0.07)
    return float((votes.argmax(1) == labels[train:]).float().mean())
