"""Counts of work that are equal on every machine, as a guard against regressions."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from paramcrop.crops.augment import Augmentation, augment
from paramcrop.crops.paramcrop import to_ranges
from paramcrop.crops.resample import crop_cube
from paramcrop.data.clips import ClipSpec, cut_sample
from paramcrop.data.video import KEYFRAME_INTERVAL, VideoReader, encode
from tests.benchmarks.crop import both_ways, ours, peer
from tests.benchmarks.timing import peak_bytes

SIZE = (16, 112, 112)


def test_a_crop_takes_a_quarter_of_the_memory_of_grid_sample_on_a_float_clip() -> None:
    stored = torch.randint(0, 256, (2, 64, 128, 128, 3), dtype=torch.uint8)
    video, v, weight = stored.permute(0, 4, 1, 2, 3), torch.full((2, 6), 0.4), torch.rand(2, 3, *SIZE)
    own = weight.nbytes  # the view itself
    peak = {way: peak_bytes(partial(both_ways, way, video, v, weight)) - own for way in (ours, peer)}
    assert peak[ours] < peak[peer] / 4, peak


def test_only_the_frames_of_a_view_are_augmented() -> None:
    counts: list[int] = []
    plain = Augmentation(
        torch.zeros(2, dtype=torch.bool), torch.arange(4).repeat(2, 1), torch.tensor([[1.0, 1, 1, 0]] * 2)
    )

    def counted(frames: Tensor) -> Tensor:
        counts.append(frames.shape[2])
        return augment(frames, plain)

    v = torch.full((2, 6), 0.4, requires_grad=True)
    crop_cube(torch.zeros(2, 3, 64, 32, 32, dtype=torch.uint8), to_ranges(v), (16, 28, 28), counted).sum().backward()
    assert sum(counts) == 3 * 16  # the frames themselves, and their two neighbours in the backward pass


@pytest.mark.parametrize("windows", [1, 2])
def test_both_views_come_from_one_pass_over_a_video(windows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    video = encode(rng.integers(0, 256, (200, 32, 42, 3), dtype=np.uint8), fps=25)
    passes: list[np.ndarray] = []
    read = VideoReader.read

    def counted(self: VideoReader, indices: np.ndarray) -> np.ndarray:
        passes.append(np.unique(indices))
        return read(self, indices)

    monkeypatch.setattr(VideoReader, "read", counted)
    cut_sample({"id": "a", "video": video.data}, ClipSpec(share_window=windows == 1, size=32), 0, 0)
    (frames,) = passes
    unused = sum(first % KEYFRAME_INTERVAL for first in frames[np.diff(frames, prepend=-2) > 1])
    assert unused <= (KEYFRAME_INTERVAL - 1) * windows  # decoded on the way from the last keyframe
    assert len(frames) <= 64 * windows
