"""Labelled, encoded videos of moving shapes: a dataset that needs no download.

A class is a motion before a patterned background; two classes share each pattern, so that neither tells all of them
apart. Shape, size, colours, start and speed, and the pattern's position, are independent of the class.
A horizontal flip never changes the class, so it remains a valid augmentation.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paramcrop.data.manifest import FORMAT, MANIFEST, Manifest
from paramcrop.data.shards import Video, write_shards
from paramcrop.data.video import encode

CLASSES = ("up", "down", "sideways", "circle", "grow", "shrink", "shake", "bounce")
PATTERNS = ("columns", "rows", "checks", "dots")  # of the background; two classes share each
SHAPES = ("disc", "square", "diamond", "ring")
VERSION = 3  # increase it when the same settings no longer give the same pixels


class Track(NamedTuple):
    """The shape's centre and radius over time: x, y, radius, each (T,), in units of the short side."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray


def motion(name: str, t: np.ndarray, rng: np.random.Generator) -> Track:
    """The path of class ``name`` at times ``t`` (T,) in [0, 1]."""
    x0, y0, r0 = rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65), rng.uniform(0.14, 0.22)
    side, reach = rng.choice([-1.0, 1.0]), rng.uniform(0.25, 0.4)
    x, y, r = np.full_like(t, x0), np.full_like(t, y0), np.full_like(t, r0)
    if name == "up":
        y = y0 + reach - 2 * reach * t
    elif name == "down":
        y = y0 - reach + 2 * reach * t
    elif name == "sideways":
        x = x0 + side * (2 * reach * t - reach)
    elif name == "circle":
        angle = rng.uniform(0, 2 * np.pi) + side * 4 * np.pi * t
        x, y = x0 + 0.6 * reach * np.cos(angle), y0 + 0.6 * reach * np.sin(angle)
    elif name == "grow":
        r = r0 * (0.5 + 1.5 * t)
    elif name == "shrink":
        r = r0 * (2.0 - 1.5 * t)
    elif name == "shake":
        x = x0 + 0.15 * np.sin(16 * np.pi * t + rng.uniform(0, 2 * np.pi))
    elif name == "bounce":
        y = y0 + reach - 1.6 * reach * np.abs(np.sin(3 * np.pi * t + rng.uniform(0, np.pi)))
    else:
        raise ValueError(f"the motion must be one of {CLASSES}, but is {name!r}")
    return Track(x, y, r)


def render(name: str, frames: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """One video of class ``name`` -> uint8 (frames, height, width, 3)."""
    track = motion(name, np.linspace(0, 1, frames), rng)
    short = min(height, width)
    rows, columns = np.mgrid[:height, :width].astype(np.float32) / short
    ground = pattern(PATTERNS[CLASSES.index(name) % len(PATTERNS)], columns, rows, rng)[..., None]
    first, second, paint = colours(rng)
    background = first + (second - first) * ground
    shape = SHAPES[rng.integers(len(SHAPES))]
    offset = (width / short - 1) / 2  # the path lies in the centre square
    video = np.empty((frames, height, width, 3), np.float32)
    for i in range(frames):
        cover = mask(shape, columns - track.x[i] - offset, rows - track.y[i], track.radius[i], 1 / short)[..., None]
        video[i] = background * (1 - cover) + paint * cover
    video += rng.normal(0, 6, video.shape).astype(np.float32)
    return np.clip(np.rint(video), 0, 255).astype(np.uint8)


def colours(rng: np.random.Generator) -> np.ndarray:
    """Two near-grey colours of the background, and one of the shape: float (3, 3), RGB in [0, 255]."""
    base = rng.uniform(100, 155)
    tint = rng.choice([-1, 1]) * rng.uniform(60, 90)
    levels = np.array([base - tint, base + tint, rng.choice([10, 245])])[:, None]
    return np.clip(levels + rng.uniform(-8, 8, (3, 3)), 0, 255)


def pattern(name: str, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A background's pattern at ``x`` and ``y``, in units of the short side -> values in [0, 1], of the same shape."""
    period, (u, v) = rng.uniform(0.15, 0.18), rng.uniform(0, 2 * np.pi, 2)
    across, along = np.sin(2 * np.pi * x / period + u), np.sin(2 * np.pi * y / period + v)
    waves = {"columns": across, "rows": along, "checks": across * along, "dots": across + along - 1}
    value: np.ndarray = np.clip(0.5 + 1.5 * waves[name], 0, 1)
    return value


def mask(shape: str, x: np.ndarray, y: np.ndarray, radius: float, edge: float) -> np.ndarray:
    """Coverage in [0, 1] of a shape at the origin with a soft ``edge``; all arguments in the same unit."""
    if shape == "square":
        inside = radius - np.maximum(np.abs(x), np.abs(y))
    elif shape == "diamond":
        inside = radius - (np.abs(x) + np.abs(y)) / np.sqrt(2)
    elif shape == "ring":
        inside = 0.35 * radius - np.abs(np.hypot(x, y) - 0.75 * radius)
    else:
        inside = radius - np.hypot(x, y)
    coverage: np.ndarray = np.clip(inside / edge + 0.5, 0, 1)
    return coverage


def videos(
    count: int,
    frames: int,
    height: int,
    width: int,
    seed: int = 0,
    fps: float = 12.0,
    test: int = 0,
    pixels: bool = True,
) -> Iterator[Video]:
    """``count`` encoded videos, the last ``test`` of them in split "test"; without ``pixels``, they have no bytes.

    The classes are shuffled, and their numbers of videos differ by at most one.
    """
    labels = np.random.default_rng([seed, 0]).permutation(np.arange(count) % len(CLASSES))
    for i, label in enumerate(labels):
        data = b""
        if pixels:
            drawn = render(CLASSES[label], frames, height, width, np.random.default_rng([seed, 1, i]))
            data = encode(drawn, fps).data
        source = hashlib.sha256(f"synthetic/{VERSION}/{seed}/{i}/{frames}x{height}x{width}".encode()).hexdigest()
        yield Video(
            f"synthetic-{seed}-{i:06d}",
            data,
            fps,
            frames,
            height,
            width,
            int(label),
            ("test",) if i >= count - test else ("train",),
            source,
        )


def make_dataset(
    folder: str,
    count: int = 256,
    frames: int = 40,
    height: int = 48,
    width: int = 64,
    seed: int = 0,
    row_group_rows: int = 64,
    test: int = 0,
    pixels: bool = True,
) -> Manifest:
    """Write ``count`` videos as shards, the last ``test`` as split "test"; without ``pixels``, they are empty."""
    settings = dataset_settings(count, frames, height, width, seed)
    rows = videos(count, frames, height, width, seed, test=test, pixels=pixels)
    return write_shards(rows, folder, CLASSES, settings, row_group_rows=row_group_rows)


def dataset_settings(count: int, frames: int, height: int, width: int, seed: int) -> dict[str, Any]:
    """The settings in the manifest of a synthetic dataset; they determine its videos."""
    settings = {"dataset": "synthetic", "version": VERSION, "count": count, "seed": seed}
    return settings | {"frames": frames, "height": height, "width": width}


_outlines: ContextVar[str] = ContextVar("outlines", default="")  # where outlines are written; empty: none are


@contextlib.contextmanager
def outlines() -> Iterator[None]:
    """Within it, ``cached_dataset`` makes only outlines: in a temporary folder, at once, and without a pixel.

    An outline has the ids, classes, splits and content id of its dataset, which is all that a dry run asks of it.
    """
    with tempfile.TemporaryDirectory(prefix="paramcrop-") as folder:
        token = _outlines.set(folder)
        try:
            yield
        finally:
            _outlines.reset(token)


def outlining() -> bool:
    """Whether this is within ``outlines``."""
    return bool(_outlines.get())


def cached_dataset(parent: Path, clip_frames: int, clip_size: int, count: int, seed: int = 0, test: int = 0) -> str:
    """The folder below ``parent`` of a synthetic dataset that suits these clips; the first call creates it.

    Datasets of different seeds share no video. The last ``test`` videos are in split "test". The folder is created
    atomically: it is written under a temporary name and then renamed.
    """
    frames, height, width = clip_frames + 8, 2 * ceil(clip_size / 2), 2 * ceil(clip_size * 2 / 3)
    name = f"synthetic-v{VERSION}-f{FORMAT.rpartition('/')[2]}-{count}x{frames}x{height}x{width}"
    folder = parent / (name + (f"-seed{seed}-test{test}" if seed or test else ""))
    if (outlined := _outlines.get()) and not (folder / MANIFEST).exists():
        parent, folder = Path(outlined), Path(outlined) / folder.name
    if not (folder / MANIFEST).exists():
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix="making-") as making:
            make_dataset(making, count, frames, height, width, seed, test=test, pixels=not outlined)
            os.chmod(making, 0o755)  # a temporary folder is private to its owner
            with contextlib.suppress(OSError):  # another process was faster; its dataset is equal
                os.rename(making, folder)
                os.mkdir(making)  # the context manager wants to remove it
    return str(folder)
