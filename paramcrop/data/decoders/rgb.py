"""Frames in RGB, read with libraries that convert colours themselves."""

from __future__ import annotations

import io

import numpy as np

from paramcrop.errors import ConfigError


class DecordFrames:
    """Frames by number, read with decord."""

    def __init__(self, data: bytes) -> None:
        try:
            import decord
        except (ImportError, OSError):  # there is no wheel for this machine, or its libraries do not load
            raise ConfigError(
                "data.decoder=decord needs decord, which has wheels for Linux and Windows on x86-64 only; "
                "leave the setting out"
            ) from None
        self._reader = decord.VideoReader(io.BytesIO(data), ctx=decord.cpu(0), num_threads=1)
        self.count = len(self._reader)

    def read(self, numbers: list[int]) -> np.ndarray:
        """See ``Frames``."""
        frames: np.ndarray = self._reader.get_batch(numbers).asnumpy()
        return frames


class TorchcodecFrames:
    """Frames by number, read with torchcodec, which uses the machine's FFmpeg."""

    def __init__(self, data: bytes) -> None:
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, OSError, RuntimeError):  # RuntimeError: it finds no FFmpeg
            raise ConfigError(
                "data.decoder=torchcodec needs torchcodec and the shared libraries of FFmpeg: "
                "pip install 'paramcrop[torchcodec]', and FFmpeg from the system's packages"
            ) from None
        self._reader = VideoDecoder(data, dimension_order="NHWC", num_ffmpeg_threads=1)
        self.count = len(self._reader)

    def read(self, numbers: list[int]) -> np.ndarray:
        """See ``Frames``."""
        frames: np.ndarray = self._reader.get_frames_at(numbers).data.numpy()
        return frames
