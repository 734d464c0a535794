"""Clips of a video file with their times: what is embedded. Long videos are cut a group of clips at a time."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from paramcrop.data.uniform import UniformSpec, cut_windows, uniform_starts
from paramcrop.data.video import VideoReader
from paramcrop.errors import VideoError
from paramcrop.storage.files import open_folder

GROUP = 20  # clips that are decoded and held at a time, and go through the network together on CPUs
PICTURE = 112  # side of a clip's picture, pixels
QUALITY = 75  # of its JPEG


class Group(NamedTuple):
    """Consecutive clips of a video.

    Attributes:
        frames: uint8 (K, T, S, S, 3). first: number of the first of them. total: clips of the whole video.
        start, end: seconds from the video's first frame to that of each clip's first and last frame, float32 (K,).
        pictures: the middle frame of each clip, its centre square, as a JPEG.
    """

    frames: np.ndarray
    first: int
    total: int
    start: np.ndarray
    end: np.ndarray
    pictures: list[bytes]


def cut_group(folder: str, path: str, spec: UniformSpec, every: float | None, first: int) -> Group:
    """Cut the clips ``first`` to ``first + GROUP`` of the video ``path`` below ``folder``, a path or URI.

    Args:
        spec: ``clips`` evenly spaced ones, as ``Encoder.preprocess`` cuts them.
        every: instead of these, one clip every so many seconds.

    Raises:
        VideoError: the file cannot be read, or is no video.
    """
    reader = _opened(folder, path)
    times = reader.times()
    starts = uniform_starts(spec, reader.frames) if every is None else starts_every(times, every, spec)
    frames, last, pictures = list[np.ndarray](), list[int](), list[bytes]()
    for start in starts[first : first + GROUP]:
        # One clip at a time: all frames of a group in the size of the source would take gigabytes.
        source = Frames(reader)
        frames.append(cut_windows(source.read, reader.frames, spec, np.array([start]))[0])
        pictures.append(jpeg(source.frame((int(start) + spec.frames // 2 * spec.stride) % reader.frames)))
        last.append(min(int(start) + spec.span, reader.frames) - 1)
    group = starts[first : first + GROUP]
    return Group(np.stack(frames), first, len(starts), times[group], times[last], pictures)


@lru_cache(maxsize=1)  # the groups of a video come one after another
def _opened(folder: str, path: str) -> VideoReader:
    return VideoReader(read_bytes(folder, path))


class Frames:
    """The frames that were last read from a video, in the size of the source."""

    def __init__(self, reader: VideoReader) -> None:
        self._reader = reader

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """See ``VideoReader.read``; the numbers are sorted."""
        self._numbers, self._frames = numbers, self._reader.read(numbers)
        return self._frames

    def frame(self, number: int) -> np.ndarray:
        """One of them: uint8 (H, W, 3)."""
        found: np.ndarray = self._frames[np.searchsorted(self._numbers, number)]
        return found


def starts_every(times: np.ndarray, seconds: float, spec: UniformSpec) -> np.ndarray:
    """The first frame of a clip every so many seconds, as long as a whole clip follows: int64 (K,); at least 0.

    Args:
        times: of the video's frames, seconds from the first.
    """
    last = max(len(times) - spec.span, 0)
    wanted = np.arange(0, float(times[last]) + 1e-6, seconds)
    starts: np.ndarray = np.unique(np.minimum(np.searchsorted(times, wanted - 1e-6), last))
    return starts


def read_bytes(folder: str, path: str) -> bytes:
    """Raises:
    VideoError: the file cannot be read.
    """
    fs, root = open_folder(folder)
    try:
        with fs.open_input_stream(f"{root}/{path}") as source:
            content: bytes = source.read()
    except OSError as error:
        raise VideoError(f"the file cannot be read: {error.strerror or error}") from None
    return content


def jpeg(frame: np.ndarray) -> bytes:
    """The centre square of uint8 (H, W, 3) as a small JPEG; equal frames give equal bytes."""
    side = min(frame.shape[:2])
    top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    picture, target = Image.fromarray(frame[top : top + side, left : left + side]), io.BytesIO()
    if side > PICTURE:
        picture = picture.resize((PICTURE, PICTURE), Image.Resampling.BILINEAR, reducing_gap=2)
    picture.save(target, "JPEG", quality=QUALITY)
    return target.getvalue()
