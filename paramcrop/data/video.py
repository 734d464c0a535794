"""Encoded bytes <-> frames, of the videos in shards. What a source file holds, only prepare/source.py knows.

decord reads where it has wheels, because its random access is fast and it bundles FFmpeg; elsewhere PyAV reads.
Everything that writes uses PyAV.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import groupby

import av
import numpy as np

from paramcrop.errors import VideoError

try:
    import decord
except (ImportError, OSError):  # there is no wheel for this machine, or its libraries do not load
    decord = None

KEYFRAME_INTERVAL = 16  # frames; a window of 64 frames then decodes at most 15 unused frames
# Equal frames must give equal bytes. Without cpu-independent, the output of x264 varied even within one process.
X264 = {"preset": "veryfast", "sc_threshold": "0", "threads": "1", "x264-params": "cpu-independent=1"}


@dataclass(frozen=True)
class Encoded:
    """One encoded video.

    Attributes:
        announced: number of frames according to the container of the source; 0: unknown.
        damage: what of the source did not decode, such as "1 packet is damaged"; empty: nothing.
        treatment: what was done to the source, such as {"turned": "90"}; see ``Manifest.treatments``.
    """

    data: bytes
    fps: float
    frames: int
    height: int
    width: int
    announced: int = 0
    damage: str = ""
    treatment: dict[str, str] = field(default_factory=dict)


class VideoReader:
    """Random access to the frames of one encoded video, on one thread.

    Do not keep a reader: decord holds the decoder's memory for as long as the reader exists.

    Raises:
        VideoError: the bytes are not a video that can be opened.
    """

    def __init__(self, data: bytes) -> None:
        self._decoder, self._data = "PyAV" if decord is None else "decord", data
        try:
            self._frames = PyAVFrames(data) if decord is None else DecordFrames(data)
        except Exception as error:  # decord raises RuntimeError, DECORDError and ValueError
            raise VideoError(f"{self._decoder} cannot open the video: {first_line(error)}") from error
        self.frames = self._frames.count  # according to the container; the last frames may be repeated
        if self.frames == 0:
            raise VideoError("the video has no frames")

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Frames at ``indices`` (n,), in any order and with repeats -> uint8 (n, H, W, 3), RGB.

        Raises:
            VideoError: a frame cannot be decoded.
        """
        unique, place = np.unique(indices, return_inverse=True)
        try:
            frames = self._frames.read(unique.tolist())
        except Exception as error:
            span = f"{unique[0]}..{unique[-1]}"
            raise VideoError(f"{self._decoder} cannot decode frames {span}: {first_line(error)}") from error
        ordered: np.ndarray = frames if np.array_equal(place, np.arange(len(place))) else frames[place]
        return ordered

    def times(self) -> np.ndarray:
        """When each frame is shown, seconds from the first: float32 (frames,).

        As the packets say (decord's own times are not those of every container); at an even rate if they do not.

        Raises:
            VideoError: the bytes cannot be opened.
        """
        try:
            shown, rate = packet_times(self._data)
        except Exception as error:
            raise VideoError(f"PyAV cannot open the video: {first_line(error)}") from error
        if len(shown) != self.frames:
            shown = np.arange(self.frames) / rate
        since: np.ndarray = (shown - shown[0]).astype(np.float32)
        return since


def packet_times(data: bytes) -> tuple[np.ndarray, float]:
    """When the frames are shown, sorted, seconds: float64 (n,), and their mean rate per second."""
    with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        shown = {p.pts for p in container.demux(stream) if p.pts is not None and not p.is_discard}
        return np.array(sorted(shown)) * float(stream.time_base or 0), float(stream.average_rate or 25)


class DecordFrames:
    """Frames by number, read with decord."""

    def __init__(self, data: bytes) -> None:
        self._reader = decord.VideoReader(io.BytesIO(data), ctx=decord.cpu(0), num_threads=1)
        self.count = len(self._reader)

    def read(self, numbers: list[int]) -> np.ndarray:
        """Frames ``numbers``, unique and sorted -> uint8 (n, H, W, 3)."""
        frames: np.ndarray = self._reader.get_batch(numbers).asnumpy()
        return frames


class PyAVFrames:
    """Frames by number, read with PyAV: the same numbers and pixels as with decord."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
            packets = [p for p in container.demux(container.streams.video[0]) if p.pts is not None]
        self._times = sorted({p.pts for p in packets if not p.is_discard})  # frame i is shown at the i-th time
        self._keys = sorted((p.pts, p.dts if p.dts is not None else p.pts) for p in packets if p.is_keyframe)
        self.count = len(self._times)

    def read(self, numbers: list[int]) -> np.ndarray:
        """Frames ``numbers``, unique and sorted -> uint8 (n, H, W, 3)."""
        times = [self._times[number] for number in numbers]
        found: dict[int, np.ndarray] = {}
        with av.open(io.BytesIO(self._data), metadata_errors="ignore") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for start, group in groupby(times, self._start):
                container.seek(start, stream=stream)
                found |= _decoded(container.decode(stream), list(group))
        return np.stack([found[time] for time in times])

    def _start(self, time: int) -> int:
        """Where decoding must start for the frame shown at ``time``: the last keyframe that is not after it."""
        return int(self._keys[max(0, bisect_right(self._keys, time, key=lambda key: key[0]) - 1)][1])


def _decoded(frames: Iterator[av.VideoFrame], times: list[int]) -> dict[int, np.ndarray]:
    """Time -> pixels for sorted ``times``. As with decord, the last frame replaces missing frames at the end."""
    found: dict[int, np.ndarray] = {}
    last: av.VideoFrame | None = None
    for last in frames:
        if last.pts in times:
            found[last.pts] = last.to_ndarray(format="rgb24")
        if last.pts is not None and last.pts >= times[-1]:
            break
    missing = [time for time in times if time not in found]
    if last is None or last.pts is None or any(time < last.pts for time in missing):
        raise ValueError("a frame is missing")
    return found | {time: last.to_ndarray(format="rgb24") for time in missing}


def encode(frames: np.ndarray, fps: float, crf: int = 20) -> Encoded:
    """uint8 (n, H, W, 3) RGB with even H and W -> H.264 in MP4 with a keyframe every 16 frames."""
    n, height, width, _ = frames.shape
    pictures = (av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames)
    return encode_frames(pictures, height, width, fps, crf, expected=n)


def scaled_size(height: float, width: float, short_side: int) -> tuple[int, int]:
    """(height, width) scaled to a short side of ``short_side``, both rounded to even numbers."""
    scale = short_side / min(height, width)
    return 2 * round(height * scale / 2), 2 * round(width * scale / 2)


def encode_frames(
    frames: Iterator[av.VideoFrame], height: int, width: int, fps: float, crf: int, expected: int | None = None
) -> Encoded:
    """4:2:0 frames of even ``height`` x ``width`` -> H.264 in MP4; ``expected``: their number, None: unknown.

    Raises:
        VideoError: there are none, or fewer or more than expected.
    """
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
        raise VideoError(f"the video has {count} frames instead of {expected or 'at least one'}")
    return Encoded(buffer.getvalue(), float(rate), count, height, width)


def first_line(error: Exception) -> str:
    """What an error says, without its further lines."""
    text = error.strerror if isinstance(error, (OSError, av.FFmpegError)) and error.strerror else str(error)
    lines = text.strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
