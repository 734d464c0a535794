"""Evenly spaced clips of a video, for features and for testing: a pure function of (row, spec)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from paramcrop.data.clips import resize
from paramcrop.data.video import VideoReader
from paramcrop.errors import VideoError


@dataclass(frozen=True)
class UniformSpec:
    """Which clips are cut from each video.

    Attributes:
        clips: number of clips, evenly spaced from the first window to the last (1: the middle one); None: windows that
            overlap by half.
        frames: frames in a clip.
        stride: source frames from one frame of a clip to the next.
        size: side of the square clip, pixels.
        box: side of the centre square that is cut, as a fraction of the short side.
        decoder: what reads the videos, one of ``paramcrop.data.video.DECODERS``.
    """

    clips: int | None = 10
    frames: int = 32
    stride: int = 2
    size: int = 224
    box: float = 0.875
    decoder: str = "planes"

    @property
    def span(self) -> int:
        """Source frames from the first to the last frame of a clip."""
        return (self.frames - 1) * self.stride + 1


def uniform_starts(spec: UniformSpec, frames: int) -> np.ndarray:
    """First frame of each window in a video of ``frames``: int64 (K,); 0 if the video is shorter than a window."""
    last = max(frames - spec.span, 0)
    if spec.clips is None:
        return np.arange(0, last + 1, max(spec.span // 2, 1), dtype=np.int64)
    places = np.linspace(0, last, spec.clips) if spec.clips > 1 else np.array([last / 2])
    starts: np.ndarray = np.rint(places).astype(np.int64)
    return starts


def cut_uniform(row: Mapping[str, Any], spec: UniformSpec) -> np.ndarray:
    """Decode and cut one video (``video``: encoded bytes) -> uint8 (K, frames, size, size, 3). Short videos loop.

    Raises:
        VideoError: the video cannot be decoded.
    """
    reader = VideoReader(row["video"], spec.decoder)
    return cut_windows(reader.read, reader.frames, spec)


def cut_windows(
    read: Callable[[np.ndarray], np.ndarray], count: int, spec: UniformSpec, starts: np.ndarray | None = None
) -> np.ndarray:
    """Cut the clips of a video of ``count`` frames -> uint8 (K, frames, size, size, 3). Short videos loop.

    Args:
        read: frame numbers (n,), sorted and unique -> uint8 (n, H, W, 3).
        starts: first frame of each clip, int64 (K,); None: ``uniform_starts``.
    """
    steps = np.arange(spec.frames) * spec.stride
    starts = uniform_starts(spec, count) if starts is None else starts
    indices = (starts[:, None] + steps) % count  # (K, frames)
    union, place = np.unique(indices, return_inverse=True)
    frames = read(union)
    height, width = frames.shape[1:3]
    side = max(1, round(spec.box * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    square = resize(frames[:, top : top + side, left : left + side], spec.size)
    clips: np.ndarray = square[place.reshape(indices.shape)]
    return clips


def direct(function: Callable[..., Any], *args: Any) -> Any:
    """Call ``function`` here; ``Killable(direct, timeout)`` calls it in a child process with a time limit."""
    return function(*args)


def cut_uniform_or_error(
    row: Mapping[str, Any], spec: UniformSpec, guard: Callable[..., Any] = direct
) -> tuple[np.ndarray | None, str]:
    """(clips, "") or (None, error text), so that a bad video does not end a task."""
    try:
        return guard(cut_uniform, row, spec), ""
    except VideoError as error:
        return None, str(error)
