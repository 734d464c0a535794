"""Accuracy on a small labelled set while a run trains: k-NN and a linear head on the backbone's features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from paramcrop.crops.resample import to_float
from paramcrop.data.killable import Killable
from paramcrop.data.labels import ranked_by_class
from paramcrop.data.manifest import read_manifest
from paramcrop.data.uniform import UniformSpec, cut_uniform_or_error, direct
from paramcrop.errors import DataError
from paramcrop.evaluation.features import Forward
from paramcrop.evaluation.fitting.heads import choose, normalised, train_heads
from paramcrop.evaluation.metrics import cosine, knn_votes, top_k
from paramcrop.evaluation.protocols import find_protocol
from paramcrop.evaluation.videos import LabelledSet, check_disjoint, open_split, rows, split_pairs

CLIPS = 32  # in a forward pass
LRS, EPOCHS, HELD_OUT = (0.1, 1.0, 10.0), 20, 0.2  # of the linear head; fewer than frozen-linear-eval's


class Part(NamedTuple):
    """The videos of one split: uint8 clips (n, T, H, W, 3), labels int64 (n,), number of classes, groups' names."""

    clips: Tensor
    label: Tensor
    classes: int
    groups: list[str]


class Probe:
    """Called with a backbone, returns ``probe_knn`` and ``probe_linear``: the accuracy on the test videos, in [0, 1].

    It trains on the first training split of a dataset, and tests on its test split. The videos are decoded at the first
    call and kept in memory. Its draws have generators of their own.

    Args:
        folder: path or URI of the shards.
        spec: one clip per video. forward: the forward pass. videos: the most per split, with all classes alike.
        timeout: seconds that a video may take to decode.

    """

    def __init__(self, folder: str, spec: UniformSpec, forward: Forward, videos: int, timeout: float) -> None:
        self.folder, self.spec, self.forward, self.videos, self.timeout = folder, spec, forward, videos, timeout

    @cached_property
    def parts(self) -> tuple[Part, Part]:
        with Killable(direct, self.timeout) as guard:
            train, test = (read_part(split, self.spec, self.videos, guard) for split in open_splits(self.folder))
        return train, test

    def __call__(self, backbone: nn.Module) -> dict[str, float]:
        """Raises:
        DataError: see ``open_splits``; no video can be decoded, or none can be held out to choose the head's rate.
        """
        train, test = self.parts
        x, y = self.features(backbone, train.clips), self.features(backbone, test.clips)
        knn = find_protocol("knn")
        votes = knn_votes(cosine(y, x), train.label, train.classes, knn.neighbours, knn.temperature)
        logits = linear_logits(x, train.label, train.groups, y, train.classes)
        names = {"probe_knn": votes, "probe_linear": logits}
        return {name: float(top_k(scores, test.label, 1).float().mean()) for name, scores in names.items()}

    @torch.no_grad()
    def features(self, backbone: nn.Module, clips: Tensor) -> Tensor:
        """uint8 clips (n, T, H, W, 3) -> float32 features (n, D) of the backbone in evaluation mode, on the CPU."""
        training = backbone.training
        backbone.eval()
        parts = (to_float(part.to(self.forward.device).permute(0, 4, 1, 2, 3)) for part in clips.split(CLIPS))
        features = torch.cat([self.forward(backbone, part).cpu() for part in parts])
        backbone.train(training)
        return features


def open_splits(folder: str) -> tuple[LabelledSet, LabelledSet]:
    """The first training split of a dataset and its test split.

    Raises:
        DataError: there is no such pair, the two share videos, or a video has no class.
    """
    names = next(iter(split_pairs(read_manifest(folder)).values()))
    train, test = (open_split(folder, name) for name in names)
    check_disjoint(train, test, *names)
    return train, test


def read_part(videos: LabelledSet, spec: UniformSpec, most: int, guard: Killable[..., object]) -> Part:
    """Decode ``most`` videos of a split, with all classes alike; those that cannot be decoded are left out.

    Raises:
        DataError: none can be decoded.
    """
    ids, labels = list(videos.labels), list(videos.labels.values())
    rank = dict(zip(ids, ranked_by_class(ids, labels, seed=0), strict=True))
    chosen = set(sorted(ids, key=lambda video: rank[video])[:most])
    clips, kept = list[np.ndarray](), list[str]()
    for row in rows(videos):
        if row["id"] in chosen and (clip := cut_uniform_or_error(row, spec, guard)[0]) is not None:
            clips.append(clip[0].copy())  # the guard's memory is valid until its next call
            kept.append(row["id"])
    if not kept:
        raise DataError(f"a probe needs videos that can be decoded, but {videos.folder} has none of {len(chosen)}")
    label = torch.tensor([videos.labels[video] for video in kept])
    return Part(torch.from_numpy(np.stack(clips)), label, len(videos.classes), [videos.groups[video] for video in kept])


def linear_logits(x: Tensor, labels: Tensor, groups: Sequence[str], y: Tensor, classes: int) -> Tensor:
    """Logits (m, C) of features y (m, D), by a linear head trained on features x (n, D)."""
    choice = choose(x, labels, groups, classes, LRS, (0.0,), HELD_OUT, EPOCHS, seed=0)
    weights, biases = train_heads(x, labels, classes, [(choice.lr, choice.weight_decay)], EPOCHS, seed=0)
    return normalised(y) @ weights[0].T + biases[0]
