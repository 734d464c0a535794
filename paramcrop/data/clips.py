"""One video -> the clips that its two views are cropped from: a pure function of (row, spec, seed, epoch).

All random numbers of a sample are drawn here, from (seed, epoch, video id) only, and are part of the sample. So a
sample depends neither on the worker that makes it, nor on the order of samples, nor on the number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from paramcrop.data.killable import empty
from paramcrop.errors import VideoError

if TYPE_CHECKING:
    from paramcrop.data.video import VideoReader

Sample = dict[str, Any]


@dataclass(frozen=True)
class ClipSpec:
    """How clips are cut from each video and which random numbers are drawn.

    Attributes:
        frames: frames in a clip.
        stride: source frames from one frame of a clip to the next.
        size: side of the square clip, pixels.
        random_cube: R_1 and R_2: each view has its own window in time and its own box. False: both views have the same
            window and the centre square.
        random_box: range of the side of R's square box, as a fraction of the short side; the side is uniform.
        share_window: both views have the same window in time even with R (for purely spatial crops).
        flip, jitter: probabilities.
        brightness, contrast, saturation: half-widths of the ranges around 1 that factors are drawn from.
        hue: half-width of the range around 0 that the shift is drawn from, in turns.
        noise_size, noise: the croppers' input, "normal" or "uniform" over [-1, 1].
        views: 2, or 1 to leave out the second view's clip without changing the random numbers.
        autoaugment: a policy of torchvision's AutoAugment that is applied to each view's clip; None: none.
        decoder: what reads the videos, one of ``paramcrop.data.video.DECODERS``.
        planes: side of the square of 4:2:0 planes that a sample has instead of a clip, pixels; see ``with_planes``.
            0: samples have clips.
        cache: see ``VideoReader``.
    """

    frames: int = 64
    stride: int = 1
    size: int = 128
    random_cube: bool = True
    random_box: tuple[float, float] = (0.65625, 0.875)
    share_window: bool = False
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    noise_size: int = 32
    noise: str = "normal"
    autoaugment: str | None = None
    views: int = 2
    decoder: str = "planes"
    planes: int = 0
    cache: str = ""

    @property
    def span(self) -> int:
        """Source frames from the first to the last frame of a clip."""
        return (self.frames - 1) * self.stride + 1

    @property
    def clips(self) -> int:
        """Clips per sample: one that both views share, or one per view."""
        return self.views if self.random_cube or self.autoaugment else 1


def with_planes(spec: ClipSpec, short_side: int | None) -> ClipSpec:
    """The same clips from planes, if these are smaller: the trainer's device then makes the clips, bit for bit.

    Args:
        short_side: short side of all videos, pixels; None: unknown.
    """
    if short_side is None or spec.decoder != "planes" or spec.autoaugment:
        return spec
    side = plane_side(spec, 2 * round(short_side / 2))
    return replace(spec, planes=side) if side**2 * 3 // 2 < spec.size**2 * 3 else spec


def plane_side(spec: ClipSpec, short: int) -> int:
    """Side of a square from an even corner on that holds any box of a picture with this short side, a multiple of 8."""
    high = spec.random_box[1] if spec.random_cube else 1.0
    return 8 * ceil((round(high * short) + 1) / 8)  # of which FFmpeg's converter makes colours on CPUs


def generator(seed: int, epoch: int, video_id: str, attempt: int = 0) -> np.random.Generator:
    """The random generator of one sample."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{video_id}/{attempt}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def draw_cubes(rng: np.random.Generator, spec: ClipSpec) -> np.ndarray:
    """The cube of each view, in units of its range: float64 (2, 4) in [0, 1), start, top, left, side.

    The number of draws is the same for every spec, so that a setting does not change the other numbers of a sample.
    """
    u = rng.random((2, 4))
    if not spec.random_cube:  # one window, the centre square
        u[1, 0], u[:, 1:3] = u[0, 0], 0.5
    elif spec.share_window:
        u[1, 0] = u[0, 0]
    return u


def window_starts(u: np.ndarray, spec: ClipSpec, frames: int) -> np.ndarray:
    """First frames of both views' windows in a video of ``frames``: int64 (2,); 0 if it is shorter than a window."""
    starts: np.ndarray = np.floor(u[:, 0] * (max(frames - spec.span, 0) + 1)).astype(np.int64)
    return starts


def square_boxes(u: np.ndarray, spec: ClipSpec, height: int, width: int) -> np.ndarray:
    """Boxes of both views in a frame: int64 (2, 3), top, left and side, pixels."""
    short = min(height, width)
    low, high = spec.random_box if spec.random_cube else (1.0, 1.0)
    side = np.clip(np.rint((low + u[:, 3] * (high - low)) * short), 1, short)
    corner = np.floor(u[:, 1:3] * (np.stack([height - side, width - side], 1) + 1))
    return np.concatenate([corner, side[:, None]], 1).astype(np.int64)


def draw_augmentation(rng: np.random.Generator, spec: ClipSpec) -> Sample:
    """Flip, jitter and noise of both views: ``flip`` (2,), ``order`` (2, 4), ``factors`` (2, 4), ``noise`` (2, m)."""
    flip = rng.random(2) < spec.flip
    jittered = rng.random(2) < spec.jitter
    order = np.stack([rng.permutation(4) for _ in range(2)])
    spread = np.array([spec.brightness, spec.contrast, spec.saturation])
    low = np.append(np.maximum(1 - spread, 0), -spec.hue)
    high = np.append(1 + spread, spec.hue)
    factors = low + rng.random((2, 4)) * (high - low)
    factors = np.where(jittered[:, None], factors, [1.0, 1.0, 1.0, 0.0])
    shape = (2, spec.noise_size)
    noise = rng.random(shape) * 2 - 1 if spec.noise == "uniform" else rng.standard_normal(shape)
    return {
        "flip": flip,
        "order": order.astype(np.int64),
        "factors": factors.astype(np.float32),
        "noise": noise.astype(np.float32),
    }


def cut_sample(row: Mapping[str, Any], spec: ClipSpec, seed: int, epoch: int, attempt: int = 0) -> Sample:
    """Decode and cut one video.

    Args:
        row: ``id`` and ``video`` (encoded bytes) of a shard row.
        attempt: selects another random stream for the same video, when it is a substitute.

    Returns:
        ``video`` uint8 (V, frames, size, size, 3) with V = 1 (shared) or 2; ``cube`` float32 (2, 3, 2), the position of
        each view's clip in the video: axes (x, y, t), [low, high], in [0, 1]; and the entries of ``draw_augmentation``.
        With ``spec.planes`` = R, ``video`` is uint8 (V, frames, 3 R / 2, R), and ``box`` int32 (V, 4) says how
        ``paramcrop.crops.picture.clips_of`` makes the clips of it.

    Raises:
        VideoError: the video cannot be decoded, or its short side is not that of ``with_planes``.
    """
    from paramcrop.data.video import VideoReader  # loads a decoder, which most processes never need

    rng = generator(seed, epoch, row["id"], attempt)
    u = draw_cubes(rng, spec)
    reader = VideoReader(row["video"], spec.decoder, spec.cache)
    starts = window_starts(u, spec, reader.frames)
    steps = np.arange(spec.frames) * spec.stride
    indices = [(start + steps) % reader.frames for start in starts[: spec.clips]]  # short videos loop
    cut = cut_planes if spec.planes else cut_clips
    video, boxes, size = cut(reader, spec, indices, u)
    if spec.autoaugment:
        streams = (generator(seed, epoch, row["id"], -1 - i) for i in range(len(video["video"])))
        clips = zip(video["video"], streams, strict=True)
        video["video"] = np.stack([autoaugment(clip, spec.autoaugment, stream) for clip, stream in clips])
    cube = cubes_in_video(starts, boxes, spec, (reader.frames, *size))
    return video | {"cube": cube, **draw_augmentation(rng, spec)}


Cuts = tuple[Sample, np.ndarray, tuple[int, int]]  # ``video`` (and ``box``), the views' boxes, the picture's size


def cut_clips(reader: VideoReader, spec: ClipSpec, indices: list[np.ndarray], u: np.ndarray) -> Cuts:
    """The clips of a sample from RGB frames; ``indices``: the frames of each."""
    union = np.unique(np.concatenate(indices))
    frames = reader.read(union)  # one pass for both views
    height, width = frames.shape[1:3]
    boxes = square_boxes(u, spec, height, width)
    clips = [
        resize(_take(frames, np.searchsorted(union, index))[:, top : top + side, left : left + side], spec.size)
        for index, (top, left, side) in zip(indices, boxes, strict=False)
    ]
    return {"video": np.stack(clips)}, boxes, (height, width)


def cut_planes(reader: VideoReader, spec: ClipSpec, indices: list[np.ndarray], u: np.ndarray) -> Cuts:
    """The planes of a sample; ``indices``: the frames of each clip."""
    from paramcrop.data.decoders.planes import packed

    height, width = reader.size
    boxes, side = square_boxes(u, spec, height, width), spec.planes
    squares = boxes[: spec.clips]
    if squares[:, 2].max() >= side:
        raise VideoError(
            f"the picture must be no larger than the set's manifest says, but has {height} x {width} pixels"
        )
    corners = squares[:, :2] // 2 * 2
    stored = empty((spec.clips, spec.frames, side * 3 // 2, side))
    if (kept := reader.kept) is not None:
        for index, corner, out in zip(indices, corners.tolist(), stored, strict=True):
            packed(kept.stacked(index), out, *corner)
    else:
        decode_planes(reader, indices, corners, stored)
    box = np.column_stack([squares[:, :2] - corners, squares[:, 2], np.full(len(squares), spec.size)])
    return {"video": stored, "box": box.astype(np.int32)}, boxes, (height, width)


def decode_planes(reader: VideoReader, indices: list[np.ndarray], corners: np.ndarray, stored: np.ndarray) -> None:
    """Decode the frames of all clips in one pass.

    Args:
        indices: the frames of each clip. corners: int (V, 2), top and left of its square, even.
        stored: the planes of its squares, uint8 (V, n, 3 R / 2, R), which are written.
    """
    from paramcrop.data.decoders.planes import packed

    places = [dict[int, list[int]]() for _ in indices]
    for place, index in zip(places, indices, strict=True):
        for k, number in enumerate(index.tolist()):
            place.setdefault(number, []).append(k)
    for number, frame in reader.planes(sorted(set().union(*places))):
        for place, corner, out in zip(places, corners.tolist(), stored, strict=True):
            for k in place.get(number, ()):
                packed(frame, out[k], *corner)


def black(spec: ClipSpec) -> Sample:
    """The ``video`` (and ``box``) of a sample that shows nothing."""
    if not spec.planes:
        return {"video": np.zeros((spec.clips, spec.frames, spec.size, spec.size, 3), np.uint8)}
    stored = np.full((spec.clips, spec.frames, spec.planes * 3 // 2, spec.planes), 128, np.uint8)
    stored[:, :, : spec.planes] = 16  # black in limited range
    return {"video": stored, "box": np.tile(np.array([0, 0, spec.planes, spec.size], np.int32), (spec.clips, 1))}


def cubes_in_video(starts: np.ndarray, boxes: np.ndarray, spec: ClipSpec, video: tuple[int, int, int]) -> np.ndarray:
    """Windows and boxes -> where each view's clip lies in the video: float32 (2, 3, 2), see ``cut_sample``.

    Args:
        starts, boxes: from ``window_starts`` and ``square_boxes``.
        video: frames, height and width.
    """
    (frames, height, width), (top, left, side) = video, boxes.T
    low = np.stack([left / width, top / height, starts / frames], 1)
    extent = np.stack([side / width, side / height, np.full(2, spec.span / frames)], 1)
    return np.stack([low, low + extent], -1).astype(np.float32)


def autoaugment(clip: np.ndarray, policy: str, rng: np.random.Generator) -> np.ndarray:
    """One sub-policy of torchvision's AutoAugment for all frames: uint8 (n, H, W, 3) -> the same shape.

    Operations that depend on the image (equalize, autocontrast) use each frame's own statistics.
    """
    import torch  # takes 2 s, and many processes never need it
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator
        torch.manual_seed(int(rng.integers(2**63)))
        frames = torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 3, 1, 2)
        augmented = AutoAugment(AutoAugmentPolicy(policy))(frames)
    return np.ascontiguousarray(augmented.permute(0, 2, 3, 1).numpy())


def _take(frames: np.ndarray, place: np.ndarray) -> np.ndarray:
    """``frames[place]``, without a copy if the places are consecutive."""
    run = slice(place[0], place[0] + len(place))
    return frames[run] if np.array_equal(place, np.arange(run.start, run.stop)) else frames[place]


def resize(frames: np.ndarray, size: int) -> np.ndarray:
    """uint8 (n, H, W, 3) -> (n, size, size, 3), bilinear, with antialiasing when shrinking."""
    if frames.shape[1:3] == (size, size):
        return frames
    from torch import from_numpy  # takes 2 s, and many processes never need it

    from paramcrop.crops.picture import scaled

    planes = from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    return np.ascontiguousarray(scaled(planes, size).permute(0, 2, 3, 1).numpy())
