"""The samples of one step as tensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from paramcrop.crops.augment import Augmentation
from paramcrop.crops.picture import clips_of

MOVED = ("video", "cube", "flip", "order", "factors", "noise", "label")  # the fields that a step computes with


class Batch(NamedTuple):
    """B videos, each with the random numbers of its two views (``paramcrop.data.clips``)."""

    # uint8 (B, V, T, H, W, 3), or planes (B, V, T, 3 R / 2, R) until ``to``; V = 1: one clip for both views, V = 2: one
    # clip per view
    video: Tensor
    cube: Tensor  # float32 (B, 2, 3, 2): position of each view's clip in the video, in [0, 1]
    flip: Tensor  # bool (B, 2)
    order: Tensor  # int64 (B, 2, 4)
    factors: Tensor  # float32 (B, 2, 4)
    noise: Tensor  # float32 (B, 2, m)
    label: Tensor  # int64 (B,)
    epoch: Tensor  # int64 (B,)
    position: Tensor  # int64 (B,): position in the epoch
    id: list[str]
    error: list[str]  # why the video could not be decoded; empty: it was decoded
    substitute: list[str]  # id of the video shown instead
    box: Tensor | None = None  # int32 (B, V, 4), on the CPU: how planes become clips, see ``clips_of``; None: no planes

    def to(self, device: torch.device) -> Batch:
        """The batch with the fields that a step computes with on ``device``, and with clips."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in MOVED}
        if self.box is not None:
            clips = clips_of(moved["video"].flatten(0, 1), self.box.flatten(0, 1), _colours)
            moved["video"] = clips.unflatten(0, self.box.shape[:2])
        return self._replace(**moved, box=None)

    def rows(self, which: slice) -> Batch:
        fields: dict[str, Any] = {name: value for name, value in self._asdict().items() if value is not None}
        return Batch(**{name: value[which] for name, value in fields.items()})

    def clip(self, view: int) -> Tensor:
        """The clip of ``view`` (0 or 1): uint8 (B, 3, T, H, W)."""
        return self.video[:, min(view, self.video.shape[1] - 1)].permute(0, 4, 1, 2, 3)

    def augmentation(self, view: int) -> Augmentation:
        return Augmentation(self.flip[:, view], self.order[:, view], self.factors[:, view])


def _colours(planes: Tensor) -> Tensor:
    """``to_rgb`` on a CPU, several times as fast."""
    from paramcrop.data.decoders.planes import colours_of_planes  # loads PyAV, which trainers on GPUs never need

    return torch.from_numpy(colours_of_planes(planes.numpy())).permute(0, 3, 1, 2)


def to_batch(columns: Mapping[str, Any]) -> Batch:
    """Columns of ``cut_batch`` (numpy) -> Batch; only read-only arrays are copied, and of these not planes."""
    values = {name: columns[name] for name in Batch._fields if name in columns}  # ``box`` is there with planes only
    for name, column in values.items():
        if name in ("id", "error", "substitute"):
            values[name] = [str(value) for value in column]
        else:
            kept = column.flags.writeable or (name == "video" and "box" in columns)
            values[name] = _tensor(column if kept else np.array(column))
    return Batch(**values)


def _tensor(column: np.ndarray) -> Tensor:
    """The same memory as a tensor; planes in Ray's object store are read-only, and nothing writes to them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writ")
        return torch.from_numpy(column)


def shard_batch(batch: Batch, rank: int, world: int) -> Batch:
    """The rows of a global batch that belong to ``rank``: equal, consecutive shares."""
    n = len(batch.id) // world
    return batch.rows(slice(rank * n, (rank + 1) * n))


def check_order(batch: Batch, epoch: int, step: int, global_batch: int) -> None:
    """Assert that every row belongs to this epoch and global step, so that no loader can reorder data unnoticed."""
    if not (bool((batch.epoch == epoch).all()) and bool((batch.position // global_batch == step).all())):
        found = batch.epoch.unique().tolist(), (batch.position // global_batch).unique().tolist()
        raise AssertionError(
            f"rows must belong to epoch {epoch}, step {step}, but belong to epochs {found[0]}, steps {found[1]}"
        )
