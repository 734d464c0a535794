"""A network's outputs for the uniform clips of every video of a split, stored so that no video is decoded twice."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from paramcrop.crops.resample import to_float
from paramcrop.data.killable import may_pass
from paramcrop.data.uniform import UniformSpec, cut_uniform_or_error
from paramcrop.errors import CheckpointError
from paramcrop.evaluation.videos import LabelledSet, Map, rows
from paramcrop.storage.files import atomic_write

PASS_CLIPS = 20  # clips per forward pass on a CPU, all of one video
# A GPU takes clips of several videos at once, because launching its kernels takes as long for one clip as for many. At
# most so many, and at most as many pixels as 20 of the paper's clips have.
GPU_CLIPS, GPU_PIXELS = 128, 20 * 32 * 224 * 224


class Normalise(NamedTuple):
    """Normalises pixels in [0, 1], (B, 3, T, H, W), to (x - mean) / std.

    Attributes:
        mean, std: of all channels, or of red, green and blue.
    """

    mean: float | tuple[float, float, float]
    std: float | tuple[float, float, float]

    def __call__(self, frames: Tensor) -> Tensor:
        mean, std = (
            frames.new_tensor(value)[:, None, None, None] if isinstance(value, tuple) else value
            for value in (self.mean, self.std)
        )
        return (frames - mean) / std


@dataclass(frozen=True)
class Forward:
    """The forward pass of clips through a network.

    Attributes:
        normalise: applied to the frames first. device: device of the network.
        dtype: dtype of autocast; float32 turns autocast off.
    """

    normalise: Normalise
    device: torch.device
    dtype: torch.dtype

    def __call__(self, network: nn.Module, frames: Tensor) -> Tensor:
        """Frames (B, 3, T, H, W) in [0, 1], on the device -> the output of ``network``, float32 (B, D)."""
        frames = self.normalise(frames)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output: Tensor = network(frames)
        return output.float()


class Outputs(NamedTuple):
    """Outputs of the n videos that could be decoded.

    Attributes:
        id: of each video. label: int64 (n,).
        clips: float32 (K_i, D) of each video, one row per clip.
        failed: {"id", "reason"} of each video that could not be decoded.
    """

    id: list[str]
    label: Tensor
    clips: list[Tensor]
    failed: list[dict[str, str]]

    @property
    def mean(self) -> Tensor:
        """The mean over each video's clips: (n, D)."""
        return torch.stack([clips.mean(0) for clips in self.clips])

    @property
    def complete(self) -> bool:
        """Whether no video failed by time, memory or storage."""
        return not any(may_pass(failure["reason"]) for failure in self.failed)


NOTHING = Outputs([], torch.zeros(0, dtype=torch.int64), [], [])


@torch.no_grad()
def clip_outputs(
    network: nn.Module,
    videos: LabelledSet,
    spec: UniformSpec,
    forward: Forward,
    mapped: Map,
    known: Outputs = NOTHING,
) -> Outputs:
    """Put ``network`` into evaluation mode and run it on every video.

    Args:
        known: outputs of some of the videos, which are not computed again; the result includes them, in stored order.

    Raises:
        CheckpointError: an output is not finite.
    """
    network.eval()
    ids, labels, outputs, failed = list[str](), list[int](), list[Tensor](), list[dict[str, str]]()
    order, (least, most) = list[str](), pass_size(spec, forward.device)

    def readable() -> Iterator[np.ndarray]:
        done = {*known.id, *(row["id"] for row in known.failed)}
        for row, clips, error in _decoded(videos, spec, mapped, done, order):
            if clips is None:
                failed.append({"id": row["id"], "reason": error})
            else:
                ids.append(row["id"])
                labels.append(row["label"])
                yield clips

    for group in grouped(readable(), least):
        parts = torch.from_numpy(np.concatenate(group)).split(most)
        found = torch.cat([_outputs(network, part, forward) for part in parts]).split([len(clips) for clips in group])
        for of_video in found:
            check_finite(of_video, ids[len(outputs)])
            outputs.append(of_video)
    new = Outputs(ids, torch.tensor(labels, dtype=torch.int64), outputs, failed)
    return _in_order(concatenate([known, new]), order) if known.id or known.failed else new


def pass_size(spec: UniformSpec, device: torch.device) -> tuple[int, int]:
    """How many clips a forward pass waits for, and how many it takes at most."""
    if device.type == "cpu":
        return 1, PASS_CLIPS
    clips = min(GPU_CLIPS, max(1, GPU_PIXELS // (spec.frames * spec.size**2)))
    return clips, clips


def grouped(videos: Iterable[np.ndarray], clips: int) -> Iterator[list[np.ndarray]]:
    """Consecutive videos' clips (K_i, ...) in groups of at least so many clips; the last may have fewer."""
    group: list[np.ndarray] = []
    for video in videos:
        group.append(video)
        if sum(map(len, group)) >= clips:
            yield group
            group = []
    if group:
        yield group


def _decoded(
    videos: LabelledSet, spec: UniformSpec, mapped: Map, known: Collection[str], order: list[str]
) -> Iterator[tuple[dict[str, Any], np.ndarray | None, str]]:
    """Yield each row that is not ``known``, without its bytes, and its clips or the reason why there are none.

    Args:
        order: receives the ids of all rows.
    """
    pending: list[dict[str, Any]] = []

    # The map takes rows ahead of its results, so ``pending`` holds the ids and labels of rows in flight, in order.
    def taken() -> Iterator[dict[str, Any]]:
        for row in rows(videos):
            order.append(row["id"])
            if row["id"] in known:
                continue
            pending.append({"id": row["id"], "label": row["label"]})
            yield row

    for clips, error in mapped(partial(cut_uniform_or_error, spec=spec), taken()):
        yield pending.pop(0), clips, error


def _outputs(network: nn.Module, clips: Tensor, forward: Forward) -> Tensor:
    """uint8 (K, T, H, W, 3) -> float32 (K, D), on the CPU."""
    return forward(network, to_float(clips.to(forward.device).permute(0, 4, 1, 2, 3))).cpu()


def concatenate(parts: Sequence[Outputs]) -> Outputs:
    """Join the outputs of several shards."""
    return Outputs(
        [video for part in parts for video in part.id],
        torch.cat([part.label for part in parts]),
        [clips for part in parts for clips in part.clips],
        [failure for part in parts for failure in part.failed],
    )


def _in_order(outputs: Outputs, order: Sequence[str]) -> Outputs:
    """The same outputs, sorted by the place of their ids in ``order``."""
    place = {video: i for i, video in enumerate(order)}
    rows = sorted(range(len(outputs.id)), key=lambda i: place[outputs.id[i]])
    failed = sorted(outputs.failed, key=lambda failure: place[failure["id"]])
    return Outputs([outputs.id[i] for i in rows], outputs.label[rows], [outputs.clips[i] for i in rows], failed)


def only(outputs: Outputs, videos: Collection[str]) -> Outputs:
    """The outputs of the videos with these ids."""
    rows = [i for i, video in enumerate(outputs.id) if video in videos]
    failed = [failure for failure in outputs.failed if failure["id"] in videos]
    return Outputs([outputs.id[i] for i in rows], outputs.label[rows], [outputs.clips[i] for i in rows], failed)


def stored_outputs(file: Path, make: Callable[[Outputs], Outputs], fresh: str = "") -> Outputs:
    """Read the outputs from ``file``, and compute what it lacks; write it atomically if that adds anything.

    Videos that failed by time, memory or storage are tried again; what was read is not.

    Args:
        make: the outputs that are known already -> those of all videos.
        fresh: the ``Job.fresh`` for which the outputs must have been computed; empty: any.

    Raises:
        CheckpointError: a stored output is not finite.
    """
    stored = _load(file, fresh)
    for video, clips in zip(stored.id, stored.clips, strict=True) if stored else ():
        check_finite(clips, f"{video} in {file}", "; --fresh computes them again")
    if stored and stored.complete:
        return stored
    known = _without_passing(stored) if stored else NOTHING
    outputs = make(known)
    kept = _without_passing(outputs)
    if len(kept.id) + len(kept.failed) > len(known.id) + len(known.failed):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            torch.save(outputs._asdict() | {"fresh": fresh}, part)
    return outputs


def _load(file: Path, fresh: str) -> Outputs | None:
    """The outputs in ``file``; None if there are none, they are damaged, or not of this ``fresh``."""
    try:
        fields = torch.load(file, weights_only=True)
        made_for = fields.pop("fresh", "")
        if fresh not in ("", made_for):
            return None
        return Outputs(**fields)
    except (OSError, RuntimeError, EOFError, ValueError, TypeError, AttributeError, pickle.UnpicklingError):
        return None


def _without_passing(outputs: Outputs) -> Outputs:
    return outputs._replace(failed=[failure for failure in outputs.failed if not may_pass(failure["reason"])])


def check_finite(outputs: Tensor, name: str, fix: str = "") -> None:
    """Check the outputs for the video ``name``.

    Raises:
        CheckpointError: a value is NaN or infinite; the message ends with ``fix``.
    """
    if not outputs.isfinite().all():
        raise CheckpointError(f"a network's outputs must be finite, but those of {name} are not{fix}")
