"""Decoded frames that are kept in a folder of this machine, so that a small set is decoded once and not every epoch."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from paramcrop.data.decoders.planes import PlaneFrames, Planes, colours_of, packed
from paramcrop.storage.files import atomic_write

# Bytes of a disk that are left free; a tenth of a small disk. What does not fit is decoded every time.
SPARE = 10e9


class KeptFrames:
    """Frames by number from an array of whole frames, uint8 (n, 3 H / 2, W), as ``packed`` makes it."""

    def __init__(self, stored: np.ndarray) -> None:
        self._stored, self.count = stored, len(stored)
        self.size = stored.shape[1] // 3 * 2, stored.shape[2]

    def read(self, numbers: list[int]) -> np.ndarray:
        """Frames ``numbers`` -> uint8 (n, H, W, 3), RGB."""
        return colours_of([picture for _, picture in self.planes(numbers)], *self.size)

    def planes(self, numbers: Sequence[int]) -> Iterator[tuple[int, Planes]]:
        """See ``VideoReader.planes``."""
        height, width = self.size
        for number in numbers:
            u, v = self._stored[number, height:].reshape(2, height // 2, width // 2)
            yield number, Planes(self._stored[number, :height], u, v)

    def stacked(self, numbers: np.ndarray) -> Planes:
        """Frames ``numbers`` (n,), in any order -> y (n, H, W), u and v (n, H / 2, W / 2); not to be written to."""
        height, width = self.size
        run = slice(numbers[0], numbers[0] + len(numbers))  # a view, where an array of numbers makes a copy
        consecutive = np.array_equal(numbers, np.arange(run.start, run.stop))
        frames = self._stored[run if consecutive else numbers]
        colours = frames[:, height:].reshape(len(frames), 2, height // 2, width // 2)
        return Planes(frames[:, :height], colours[:, 0], colours[:, 1])


def kept_frames(data: bytes, folder: str) -> KeptFrames | PlaneFrames:
    """The frames of a video from ``folder``; the first time, they are decoded and written there if there is room."""
    file = Path(folder).expanduser() / f"{hashlib.sha256(data).hexdigest()[:32]}.npy"
    with suppress(OSError, ValueError, EOFError):  # it is not there, or not whole
        return KeptFrames(np.load(file, mmap_mode="r").view(np.ndarray))  # slices of a memmap take three times as long
    frames = PlaneFrames(data)
    shape = frames.count, frames.size[0] * 3 // 2, frames.size[1]
    if not frames.count or not frames.plain or not _has_room(file.parent, math.prod(shape)):
        return frames
    stored = np.empty(shape, np.uint8)
    for number, picture in frames.planes(range(frames.count)):
        packed(picture, stored[number])
    with suppress(OSError), atomic_write(file) as temporary:  # a full disk costs time, not the run
        np.save(temporary, stored)
    return KeptFrames(stored)


def _has_room(folder: Path, size: int) -> bool:
    """Whether so many bytes fit into the folder, which is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(folder)
    except OSError:
        return False
    return disk.free - size > min(SPARE, disk.total / 10)
