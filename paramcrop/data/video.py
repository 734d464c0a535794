"""Encoded bytes <-> frames, of the videos in shards. What a source file holds, only prepare/source.py knows.

Three decoders read the same frames under the same numbers. ``planes`` is PyAV without colour conversion: the stored
4:2:0 bytes, which ``paramcrop.crops.picture`` turns into colours. decord and torchcodec give RGB. Everything that
writes uses PyAV.
"""

from __future__ import annotations

import io
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np

from paramcrop.data.decoders.kept import KeptFrames, kept_frames
from paramcrop.data.decoders.planes import PlaneFrames, Planes
from paramcrop.data.decoders.rgb import DecordFrames, TorchcodecFrames
from paramcrop.errors import ConfigError, VideoError

KEYFRAME_INTERVAL = 16  # frames; a window of 64 frames then decodes at most 15 unused frames
# fastdecode: no arithmetic coding and no deblocking, which would be a third of the time of decoding. Equal frames must
# give equal bytes; without cpu-independent, the output of x264 varied even within one process.
X264 = {
    "preset": "veryfast",
    "tune": "fastdecode",
    "sc_threshold": "0",
    "threads": "1",
    "x264-params": "cpu-independent=1",
}


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


class Frames(typing.Protocol):
    """The frames of one encoded video by number; ``count`` of them."""

    count: int

    def read(self, numbers: list[int]) -> np.ndarray:
        """Frames ``numbers``, unique and sorted -> uint8 (n, H, W, 3), RGB."""


# Value of data.decoder -> what messages call it, and its frames.
DECODERS: dict[str, tuple[str, Callable[[bytes], Frames]]] = {
    "planes": ("PyAV", PlaneFrames),
    "decord": ("decord", DecordFrames),
    "torchcodec": ("torchcodec", TorchcodecFrames),
}


def check_decoder(name: str) -> None:
    """Raises:
    ConfigError: a decoder is not installed.
    """
    with suppress(VideoError):
        VideoReader(b"", name)


class VideoReader:
    """Random access to the frames of one encoded video, on one thread.

    A reader holds the decoder's memory for as long as it exists.

    Args:
        decoder: one of ``DECODERS``.
        cache: a folder of this machine where ``planes`` keeps decoded frames; empty: nothing is kept.

    Raises:
        VideoError: the bytes are not a video that can be opened.
        ConfigError: the decoder is not installed.
    """

    def __init__(self, data: bytes, decoder: str = "planes", cache: str = "") -> None:
        self._name, opened = DECODERS[decoder]
        try:
            self._frames = kept_frames(data, cache) if cache and decoder == "planes" else opened(data)
        except ConfigError:
            raise
        except Exception as error:  # decord raises RuntimeError, DECORDError and ValueError
            raise VideoError(f"{self._name} cannot open the video: {first_line(error)}") from error
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
            raise self._error(unique, error) from error
        ordered: np.ndarray = frames if np.array_equal(place, np.arange(len(place))) else frames[place]
        return ordered

    def times(self) -> np.ndarray:
        """When each frame is shown, seconds from the first: float32 (frames,); only with ``planes``."""
        if not isinstance(self._frames, PlaneFrames):
            raise TypeError(f"only the decoder planes has times, but this is {self._name}")
        return self._frames.times()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels; only with ``planes``."""
        return self._planes.size

    def planes(self, numbers: Sequence[int]) -> Iterator[tuple[int, Planes]]:
        """Frames ``numbers``, unique and sorted, each with its number; valid until the next. Only with ``planes``.

        Raises:
            VideoError: a frame cannot be decoded.
        """
        try:
            yield from self._planes.planes(numbers)
        except Exception as error:
            raise self._error(np.asarray(numbers), error) from error

    @property
    def kept(self) -> KeptFrames | None:
        """The decoded frames, if they are kept in the cache."""
        return self._frames if isinstance(self._frames, KeptFrames) else None

    @property
    def _planes(self) -> PlaneFrames | KeptFrames:
        if not isinstance(self._frames, PlaneFrames | KeptFrames):
            raise TypeError(f"only the decoder planes has planes, but this is {self._name}")
        return self._frames

    def _error(self, numbers: np.ndarray, error: Exception) -> VideoError:
        return VideoError(f"{self._name} cannot decode frames {numbers[0]}..{numbers[-1]}: {first_line(error)}")


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
