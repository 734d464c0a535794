"""Frames as they are stored, read with PyAV: 4:2:0 planes without a conversion of colours."""

from __future__ import annotations

import io
import platform
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from paramcrop.data.prepare.picture import BT601, FULL, UNSPECIFIED, best_of, open_video, picture_of, shown, videos_in

# FFmpeg's converter equals ``paramcrop.crops.picture.to_rgb`` to the bit on these machines, up to the last multiple of
# so many columns; it rounds otherwise beyond and elsewhere.
ALIKE, WHOLE = platform.machine() in ("x86_64", "AMD64"), 8
CHUNK = 8  # frames that are turned into colours at a time, in a processor's cache
UNTIMED = ("avi",)  # containers that store no times; FFmpeg's for their B-frames are in the order of decoding


class Planes(NamedTuple):
    """A frame as it is stored: uint8 luma (H, W), and U and V of half the height and width, rounded up."""

    y: np.ndarray
    u: np.ndarray
    v: np.ndarray


class PlaneFrames:
    """Frames by number, read with PyAV. A file of the user's own is shown as ``prepare`` shows it."""

    def __init__(self, data: bytes) -> None:
        self._container = open_video(io.BytesIO(data))
        # Its objects refer to each other, so without this it would stay open until Python next collects such cycles.
        weakref.finalize(self, self._container.close).atexit = False
        if not (streams := videos_in(self._container)):
            raise ValueError("it has no video stream")
        self._stream = best_of(streams)
        self._stream.codec_context.thread_count = 1
        packets: list[Any] = [p for p in self._container.demux(self._stream) if p.size]
        self._timed = self._container.format.name not in UNTIMED and all(p.pts is not None for p in packets)
        # Frame i is shown at the i-th time.
        self._times: list[int] = sorted({p.pts for p in packets if not p.is_discard}) if self._timed else []
        self._keys = sorted(
            (p.pts, p.dts if p.dts is not None else p.pts) for p in packets if p.is_keyframe and self._timed
        )
        self.count = len(self._times) if self._timed else len(packets)
        self.size = self._stream.codec_context.height, self._stream.codec_context.width

    @property
    def plain(self) -> bool:
        """Whether frames are as shards have them."""
        context, (height, width) = self._stream.codec_context, self.size
        shard = context.pix_fmt == "yuv420p" and int(context.color_range) != FULL
        return shard and int(context.colorspace) in (UNSPECIFIED, *BT601) and height % 2 == width % 2 == 0

    def read(self, numbers: list[int]) -> np.ndarray:
        """See ``Frames``."""
        pictures = [frame for _, frame in self.pictures(numbers)]
        picture = picture_of(pictures[0], self._stream.sample_aspect_ratio)
        if self.plain and not picture.treatment:
            return colours_of([planes_of(frame) for frame in pictures], *self.size)
        height, width = (2 * round(side / 2) for side in picture.size(*self.size))
        return colours_of([planes_of(shown(frame, picture, height, width)) for frame in pictures], height, width)

    def times(self) -> np.ndarray:
        """When each frame is shown, seconds from the first: float32 (count,); evenly, if the container does not say."""
        if self._timed:
            since = (np.array(self._times) - self._times[0]) * float(self._stream.time_base or 0)
        else:
            since = np.arange(self.count) / float(self._stream.average_rate or 25)
        return since.astype(np.float32)

    def planes(self, numbers: Sequence[int]) -> Iterator[tuple[int, Planes]]:
        """See ``VideoReader.planes``."""
        return ((number, planes_of(frame)) for number, frame in self.pictures(numbers))

    def pictures(self, numbers: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames ``numbers``, unique and sorted, each with its number.

        As with decord, the last frame stands for frames that are missing at the end.
        """
        if not self._timed:
            self._container.seek(0)
            yield from _counted(self._container.decode(self._stream), list(numbers))
            return
        for run in self._runs(numbers):
            self._container.seek(self._keys[self._key(run[0])][1], stream=self._stream)
            yield from _picked(self._container.decode(self._stream), run, self._times)

    def _runs(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        """Divide ``numbers`` where seeking skips a keyframe; elsewhere decoding goes on."""
        run: list[int] = []
        for number in numbers:
            if run and self._key(number) > self._key(run[-1]) + 1:
                yield run
                run = []
            run.append(number)
        if run:
            yield run

    def _key(self, number: int) -> int:
        """Where decoding must start for a frame: the index of the last keyframe that is not after it."""
        return max(0, bisect_right(self._keys, self._times[number], key=lambda key: key[0]) - 1)


def _picked(
    frames: Iterator[av.VideoFrame], numbers: list[int], times: list[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames of sorted ``numbers``; ``times`` has the time of every number."""
    left, last = iter(numbers), None
    number = next(left)
    for last in frames:
        if last.pts is None or last.pts < times[number]:
            continue
        if last.pts > times[number]:
            raise ValueError("a frame is missing")
        yield number, last
        if (following := next(left, None)) is None:
            return
        number = following
    if last is None:
        raise ValueError("a frame is missing")
    yield from ((n, last) for n in [number, *left])


def _counted(frames: Iterator[av.VideoFrame], numbers: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames of sorted ``numbers``, counted from the first."""
    left, last = deque(numbers), None
    for i, last in enumerate(frames):
        if i == left[0]:
            yield left.popleft(), last
            if not left:
                return
    if last is None:
        raise ValueError("a frame is missing")
    yield from ((n, last) for n in left)


def planes_of(frame: av.VideoFrame) -> Planes:
    """The planes of a frame, without a copy if it has 4:2:0 already."""
    if frame.format.name not in ("yuv420p", "yuvj420p"):
        frame = frame.reformat(format="yuv420p")
    stored: Any = frame.planes  # PyAV's types do not say that they are buffers
    y, u, v = (np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in stored)
    height, width = frame.height, frame.width
    half = -(-width // 2)
    return Planes(y[:height, :width], u[:, :half], v[:, :half])


def packed(planes: Planes, out: np.ndarray, top: int = 0, left: int = 0) -> None:
    """Copy the part of a frame from an even corner on into ``out``, uint8 (3 H / 2, W): luma, then U, then V.

    What lies beyond the frame is 0. Several frames, with one more axis at the front of all arrays, are copied at once.
    """
    width = out.shape[-1]
    height = out.shape[-2] // 3 * 2
    colours = out[..., height:, :].reshape(*out.shape[:-2], 2, height // 2, width // 2)
    _copy(planes.y[..., top : top + height, left : left + width], out[..., :height, :])
    rows, columns = slice(top // 2, (top + height) // 2), slice(left // 2, (left + width) // 2)
    _copy(planes.u[..., rows, columns], colours[..., 0, :, :])
    _copy(planes.v[..., rows, columns], colours[..., 1, :, :])


def _copy(source: np.ndarray, out: np.ndarray) -> None:
    if source.shape == out.shape:
        out[:] = source
    else:
        out[:] = 0
        out[..., : source.shape[-2], : source.shape[-1]] = source


def colours_of(pictures: Sequence[Planes], height: int, width: int) -> np.ndarray:
    """Frames of even ``height`` and ``width`` -> uint8 (n, height, width, 3), RGB."""
    rgb = np.empty((len(pictures), height, width, 3), np.uint8)
    stored = np.empty((CHUNK, -(-height // 4) * 6, -(-width // WHOLE) * WHOLE), np.uint8)
    for first in range(0, len(pictures), CHUNK):
        some = pictures[first : first + CHUNK]
        for picture, out in zip(some, stored, strict=False):
            packed(picture, out)
        rgb[first : first + CHUNK] = colours_of_planes(stored[: len(some)])[:, :height, :width]
    return rgb


def colours_of_planes(stored: np.ndarray) -> np.ndarray:
    """``paramcrop.crops.picture.to_rgb`` by the fastest means of a CPU: uint8 (n, 3 H / 2, W) -> (n, H, W, 3)."""
    if ALIKE and stored.shape[2] % WHOLE == 0 and stored.shape[1] % 6 == 0:  # PyAV takes heights divisible by 4
        return by_ffmpeg([av.VideoFrame.from_numpy_buffer(picture, format="yuv420p") for picture in stored])
    from torch import from_numpy  # takes 2 s, and most decode tasks never need it

    from paramcrop.crops.picture import to_rgb

    rgb: np.ndarray = to_rgb(from_numpy(stored)).permute(0, 2, 3, 1).numpy()
    return rgb


def by_ffmpeg(frames: Sequence[av.VideoFrame]) -> np.ndarray:
    """Frames of one size -> uint8 (n, H, W, 3), RGB."""
    rgb = np.empty((len(frames), frames[0].height, frames[0].width, 3), np.uint8)
    converter = VideoReformatter()  # making one for each frame would take longer than the conversion
    for frame, out in zip(frames, rgb, strict=True):
        converted: Any = converter.reformat(frame, format="rgb24", **one_thread()).planes[0]
        rows = np.frombuffer(converted, np.uint8).reshape(len(out), converted.line_size)
        out[:] = rows[:, : out[0].size].reshape(out.shape)
    return rgb


@cache
def one_thread() -> dict[str, int]:
    """An argument for FFmpeg's converter: to wake a second thread takes four times as long as to convert a frame."""
    try:
        VideoReformatter().reformat(av.VideoFrame(16, 16, "yuv420p"), format="rgb24", threads=1)
    except TypeError:  # older versions of PyAV have no choice
        return {}
    return {"threads": 1}
