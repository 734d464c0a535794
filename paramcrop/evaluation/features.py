"""A network's outputs for the uniform clips of every video of a split, kept in a file: no video is decoded twice."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from paramcrop.crops.resample import to_float
from paramcrop.data.uniform import UniformSpec, cut_uniform_or_error
from paramcrop.evaluation.videos import LabelledSet, Map, rows
from paramcrop.storage.files import whole

PASS_CLIPS = 20  # clips through the network at once


class Normalise(NamedTuple):
    """Of pixels in [0, 1]."""

    mean: float
    std: float

    def __call__(self, frames: Tensor) -> Tensor:
        return (frames - self.mean) / self.std


class Outputs(NamedTuple):
    """Of n of N videos.

    Attributes:
        id: of each video that could be decoded. label: int64 (n,).
        clips: float32 (K_i, D) each.
        failed: {"id", "reason"} of the others.
    """

    id: list[str]
    label: Tensor
    clips: list[Tensor]
    failed: list[dict[str, str]]

    @property
    def mean(self) -> Tensor:
        """Each video's mean over its clips: (n, D)."""
        return torch.stack([clips.mean(0) for clips in self.clips])


@torch.no_grad()
def clip_outputs(
    network: nn.Module,
    videos: LabelledSet,
    spec: UniformSpec,
    normalise: Normalise,
    device: torch.device,
    dtype: torch.dtype,
    mapped: Map,
) -> Outputs:
    """Run ``network``, put into evaluation mode, on every video."""
    network.eval()
    ids, labels, outputs, failed = list[str](), list[int](), list[Tensor](), list[dict[str, str]]()
    for row, clips, error in _decoded(videos, spec, mapped):
        if clips is None:
            failed.append({"id": row["id"], "reason": error})
            continue
        ids.append(row["id"])
        labels.append(row["label"])
        parts = torch.from_numpy(clips).split(PASS_CLIPS)
        outputs.append(torch.cat([_forward(network, part, normalise, device, dtype) for part in parts]))
    return Outputs(ids, torch.tensor(labels, dtype=torch.int64), outputs, failed)


def _decoded(
    videos: LabelledSet, spec: UniformSpec, mapped: Map
) -> Iterator[tuple[dict[str, Any], np.ndarray | None, str]]:
    """Each row, without its bytes, with its clips or the reason why there are none."""
    kept: list[dict[str, Any]] = []

    def noted() -> Iterator[dict[str, Any]]:
        for row in rows(videos):
            kept.append({"id": row["id"], "label": row["label"]})
            yield row

    for clips, error in mapped(partial(cut_uniform_or_error, spec=spec), noted()):
        yield kept.pop(0), clips, error


def _forward(
    network: nn.Module, clips: Tensor, normalise: Normalise, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """uint8 (K, T, H, W, 3) -> float32 (K, D), on the CPU."""
    frames = normalise(to_float(clips.to(device).permute(0, 4, 1, 2, 3)))
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        output: Tensor = network(frames)
    return output.float().cpu()


def together(parts: Sequence[Outputs]) -> Outputs:
    """Several shards' outputs as one."""
    return Outputs(
        [video for part in parts for video in part.id],
        torch.cat([part.label for part in parts]),
        [clips for part in parts for clips in part.clips],
        [failure for part in parts for failure in part.failed],
    )


def only(outputs: Outputs, wanted: Collection[str]) -> Outputs:
    """Of the videos with these ids."""
    rows = [i for i, video in enumerate(outputs.id) if video in wanted]
    failed = [failure for failure in outputs.failed if failure["id"] in wanted]
    return Outputs([outputs.id[i] for i in rows], outputs.label[rows], [outputs.clips[i] for i in rows], failed)


def kept_outputs(file: Path, make: Callable[[], Outputs]) -> Outputs:
    """What ``file`` holds, or ``make``'s, which it holds from then on; the file appears whole or not at all."""
    if not file.exists():
        outputs = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as part:
            torch.save(outputs._asdict(), part)
    return Outputs(**torch.load(file, weights_only=True))
