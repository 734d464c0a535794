"""Encoded bytes <-> frames: the only file that knows a decoder or an encoder.

Training reads with decord (fast random access, bundles its FFmpeg); everything that writes goes through PyAV.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import decord
import numpy as np

from paramcrop.errors import VideoError

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
        try:
            self._reader = decord.VideoReader(io.BytesIO(data), ctx=decord.cpu(0), num_threads=1)
            self.frames = len(self._reader)  # the container's count; the last few may be copies
        except Exception as error:  # decord raises RuntimeError, DECORDError and ValueError alike
            raise VideoError(f"a video must open, but decord says: {_first_line(error)}") from error
        if self.frames == 0:
            raise VideoError("a video must hold at least one frame, but it has none")

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Frames at ``indices`` (n,), repeats and any order allowed -> uint8 (n, H, W, 3), RGB.

        Raises:
            VideoError: a frame cannot be decoded.
        """
        wanted, place = np.unique(indices, return_inverse=True)
        try:
            frames = self._reader.get_batch(wanted.tolist()).asnumpy()
        except Exception as error:
            raise VideoError(
                f"frames {wanted[0]}..{wanted[-1]} must decode, but decord says: {_first_line(error)}"
            ) from error
        ordered: np.ndarray = frames if np.array_equal(place, np.arange(len(place))) else frames[place]
        return ordered


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
