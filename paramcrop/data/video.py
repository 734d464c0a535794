"""Encoded bytes <-> frames: the only file that knows a decoder or an encoder.

decord reads where it has wheels (fast random access, bundles its FFmpeg), PyAV elsewhere; everything that writes goes
through PyAV.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import av
import numpy as np

from paramcrop.errors import VideoError

try:
    import decord
except (ImportError, OSError):  # no wheel for this machine, or one whose libraries do not load
    decord = None

KEYFRAME_INTERVAL = 16  # frames; a 64-frame window then decodes at most 15 frames that it does not use
# Equal frames must give equal bytes: without cpu-independent, x264's result was seen to vary within one process.
X264 = {"preset": "veryfast", "sc_threshold": "0", "threads": "1", "x264-params": "cpu-independent=1"}


@dataclass(frozen=True)
class Encoded:
    """One encoded video.

    Attributes:
        announced: frames that the container it was made of says it holds; 0 where it does not say.
    """

    data: bytes
    fps: float
    frames: int
    height: int
    width: int
    announced: int = 0


class VideoReader:
    """Random access to the frames of one encoded video, on one thread.

    Open, read and drop it: decord keeps decoder memory for as long as the reader lives.

    Raises:
        VideoError: the bytes hold no video that can be opened.
    """

    def __init__(self, data: bytes) -> None:
        self._decoder = "PyAV" if decord is None else "decord"
        try:
            self._frames = PyAVFrames(data) if decord is None else DecordFrames(data)
        except Exception as error:  # decord raises RuntimeError, DECORDError and ValueError alike
            raise VideoError(f"a video must open, but {self._decoder} says: {_first_line(error)}") from error
        self.frames = self._frames.count  # the container's count; the last few may be copies
        if self.frames == 0:
            raise VideoError("a video must hold at least one frame, but it has none")

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Frames at ``indices`` (n,), repeats and any order allowed -> uint8 (n, H, W, 3), RGB.

        Raises:
            VideoError: a frame cannot be decoded.
        """
        wanted, place = np.unique(indices, return_inverse=True)
        try:
            frames = self._frames.read(wanted.tolist())
        except Exception as error:
            raise VideoError(
                f"frames {wanted[0]}..{wanted[-1]} must decode, but {self._decoder} says: {_first_line(error)}"
            ) from error
        ordered: np.ndarray = frames if np.array_equal(place, np.arange(len(place))) else frames[place]
        return ordered


class DecordFrames:
    """decord's frames by number."""

    def __init__(self, data: bytes) -> None:
        self._reader = decord.VideoReader(io.BytesIO(data), ctx=decord.cpu(0), num_threads=1)
        self.count = len(self._reader)

    def read(self, wanted: list[int]) -> np.ndarray:
        """Frames ``wanted``, each once, in order -> uint8 (n, H, W, 3)."""
        frames: np.ndarray = self._reader.get_batch(wanted).asnumpy()
        return frames


class PyAVFrames:
    """PyAV's frames by number: decord's numbers, and decord's pixels."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
            packets = [p for p in container.demux(container.streams.video[0]) if p.pts is not None]
        self._times = sorted({p.pts for p in packets if not p.is_discard})  # a frame's number is its place among these
        self._keys = sorted((p.pts, p.dts if p.dts is not None else p.pts) for p in packets if p.is_keyframe)
        self.count = len(self._times)

    def read(self, wanted: list[int]) -> np.ndarray:
        """Frames ``wanted``, each once, in order -> uint8 (n, H, W, 3)."""
        times = [self._times[number] for number in wanted]
        found: dict[int, np.ndarray] = {}
        with av.open(io.BytesIO(self._data), metadata_errors="ignore") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for start, group in groupby(times, self._start):
                container.seek(start, stream=stream)
                found |= _decoded(container.decode(stream), list(group))
        return np.stack([found[time] for time in times])

    def _start(self, time: int) -> int:
        """Where decoding must begin for the frame shown at ``time``: at the last keyframe that is not after it."""
        return self._keys[max(0, bisect_right(self._keys, time, key=lambda key: key[0]) - 1)][1]


def _decoded(frames: Iterator[av.VideoFrame], times: list[int]) -> dict[int, np.ndarray]:
    """Time -> pixels, for ``times`` in order. As with decord, the last frame stands in for what the end lacks."""
    found: dict[int, np.ndarray] = {}
    last: av.VideoFrame | None = None
    for last in frames:
        if last.pts in times:
            found[last.pts] = last.to_ndarray(format="rgb24")
        if last.pts is not None and last.pts >= times[-1]:
            break
    lacking = [time for time in times if time not in found]
    if last is None or last.pts is None or any(time < last.pts for time in lacking):
        raise ValueError("a frame is missing")
    return found | {time: last.to_ndarray(format="rgb24") for time in lacking}


def encode(frames: np.ndarray, fps: float, crf: int = 20) -> Encoded:
    """uint8 (n, H, W, 3) RGB -> H.264 in MP4 with a keyframe every 16 frames; H and W must be even."""
    n, height, width, _ = frames.shape
    return _encode((av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames), n, height, width, fps, crf)


def transcode(path: str | Path, short_side: int = 128, crf: int = 20) -> Encoded:
    """Re-encode a video file: short side ``short_side`` (pixels, aspect kept, even), a keyframe every 16 frames.

    Rotation tags and variable frame rates are not honoured: frames come as the file stores them.

    Raises:
        VideoError: the file is missing, holds no video stream, or no frame of it decodes.
    """
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise VideoError(f"{path}: a file must hold a video stream, but it has none")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # as fast in sum as its own threads, and keeps to one core
            fps = float(stream.average_rate or 25)
            height, width = scaled_size(stream.height, stream.width, short_side)
            frames = (frame.reformat(width, height, format="yuv420p") for frame in container.decode(stream))
            encoded = _encode(frames, None, height, width, fps, crf)
            return replace(encoded, announced=_announced(container, stream))
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: a video must open and decode, but PyAV says: {_first_line(error)}") from error


def _announced(container: av.container.InputContainer, stream: av.VideoStream) -> int:
    if stream.frames or container.duration is None:
        return stream.frames
    return round(container.duration / av.time_base * float(stream.average_rate or 0))


def scaled_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) scaled so that the short side is ``short_side``, both rounded to even numbers."""
    scale = short_side / min(height, width)
    return 2 * round(height * scale / 2), 2 * round(width * scale / 2)


def _encode(
    frames: Iterator[av.VideoFrame], expected: int | None, height: int, width: int, fps: float, crf: int
) -> Encoded:
    buffer, count = io.BytesIO(), 0
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.gop_size = KEYFRAME_INTERVAL
        stream.options = X264 | {"crf": str(crf)}
        for frame in frames:
            frame.pts, frame.time_base = count, 1 / rate
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode(None))
    if count == 0 or (expected is not None and count != expected):
        raise VideoError(f"a video must hold at least one frame, but {count} were read")
    return Encoded(buffer.getvalue(), float(rate), count, height, width)


def _first_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, (OSError, av.FFmpegError)) and error.strerror else str(error)
    lines = text.strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
