"""Stored 4:2:0 planes -> RGB clips: the colours of a picture and the size of a clip, computed in one place.

Everything is integer arithmetic, so CPUs and GPUs make the same bytes. Shards are limited range (16 to 235) with the
matrix of BT.601. A chroma sample stands for its whole block of 2 x 2 pixels: chroma is not interpolated, so its siting
in the block does not matter. The rounding is that of FFmpeg's converter, so the colours are those that decord shows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paramcrop.models.layers import has_triton

UNIT = 2**13  # of the coefficients
# BT.601 (K_r = 0.299, K_b = 0.114), from luma of 219 steps and chroma of 224 to colours of 255.
LUMA = round(UNIT * 255 / 219)
RED_V = round(UNIT * 255 / 224 * 1.402)
GREEN_U, GREEN_V = round(UNIT * 255 / 224 * -0.344136), round(UNIT * 255 / 224 * -0.714136)
BLUE_U = round(UNIT * 255 / 224 * 1.772)
BLACK, NEUTRAL = 16, 128
Colours = Callable[[Tensor], Tensor]  # ``to_rgb``, or the same by other means
STEP = 8  # frames converted at a time; their intermediate values stay in a CPU's cache


def clips_of(planes: Tensor, boxes: Tensor, colours: Colours | None = None) -> Tensor:
    """Cut a square out of every picture and scale it to the clip.

    Args:
        planes: uint8 (N, T, 3 R / 2, R), R even: luma, then U and V of (R / 2, R / 2) each, one after another.
        boxes: integers (N, 4) on the CPU: top, left and side of the square, and the side S of the clip, pixels. All
            clips have one S.
        colours: what a CPU calls in place of ``to_rgb``, with the same result; None: nothing.

    Returns:
        uint8 (N, T, S, S, 3), RGB, on the device of the planes.
    """
    if planes.is_cuda and has_triton():
        from paramcrop.crops.picture_kernel import fused_clips

        return fused_clips(planes, boxes)
    return plain_clips(planes, boxes, colours)


def plain_clips(planes: Tensor, boxes: Tensor, colours: Colours | None = None) -> Tensor:
    """``clips_of`` in PyTorch's own operations, which define it and which CPUs run."""
    size = int(boxes[0, 3])
    clips = torch.empty(*planes.shape[:2], size, size, 3, dtype=torch.uint8)
    for clip, stored, (top, left, side, _) in zip(clips, planes.cpu(), boxes.tolist(), strict=True):
        square = (colours or to_rgb)(stored)[..., top : top + side, left : left + side]
        clip.copy_(scaled(square, size).permute(0, 2, 3, 1))
    return clips.to(planes.device)


def to_rgb(planes: Tensor) -> Tensor:
    """uint8 (n, 3 H / 2, W) with even H and W, on the CPU -> uint8 (n, 3, H, W), with channels last in memory."""
    n, width = len(planes), planes.shape[2]
    height = planes.shape[1] // 3 * 2
    rgb = torch.empty(n, height // 2, 2, width, 3, dtype=torch.uint8)
    for first in range(0, n, STEP):
        some = planes[first : first + STEP]
        luma = _steps(some[:, :height].float() - BLACK, LUMA).view(-1, height // 2, 2, width)
        u, v = (some[:, height:].reshape(-1, 2, height // 2, width // 2).float() - NEUTRAL).unbind(1)
        shifts = _steps(v, RED_V), _steps(v, GREEN_V) + _steps(u, GREEN_U), _steps(u, BLUE_U)
        for colour, shift in enumerate(shifts):
            rgb[first : first + STEP, ..., colour] = (luma + _doubled(shift)[:, :, None]).clamp_(0, 255)
    return rgb.view(n, height, width, 3).permute(0, 3, 1, 2)


def _steps(x: Tensor, coefficient: int) -> Tensor:
    """floor(x coefficient / UNIT) as int16. float32 is exact here: the products are below 2**24."""
    return (x * (coefficient / UNIT)).floor_().to(torch.int16)


def _doubled(x: Tensor) -> Tensor:
    """int16 (..., w) -> (..., 2 w), each value twice. Several times as fast as ``repeat_interleave``."""
    pair = x.to(torch.int32)
    return ((pair & 0xFFFF) | (pair << 16)).view(torch.int16)


def scaled(frames: Tensor, size: int) -> Tensor:
    """uint8 (n, 3, H, W) on the CPU -> (n, 3, size, size), bilinear, with antialiasing when shrinking."""
    if frames.shape[2:] == (size, size):
        return frames
    frames = frames.contiguous(memory_format=torch.channels_last)  # takes torch's fast path for uint8
    return F.interpolate(frames, size=(size, size), mode="bilinear", antialias=True)


class Taps(NamedTuple):
    """Torch's weights of antialiased bilinear scaling of uint8, in whole numbers.

    Attributes:
        start: int32 (size,), the first source pixel of each pixel.
        weight: int32 (size, n), of the pixels from there on, in units of 2 ** -``shift``.
        shift: number of bits.
    """

    start: np.ndarray
    weight: np.ndarray
    shift: int


@cache
def taps(side: int, size: int) -> Taps:
    """How ``scaled`` makes ``size`` pixels of ``side``, along either axis; n is 2 unless they become fewer."""
    scale = side / size
    support, n = max(scale, 1.0), tap_count(side, size)
    centre = scale * (np.arange(size) + 0.5)
    start = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + support + 0.5).astype(np.int64), side)
    place = start[:, None] + np.arange(n)
    weight = np.maximum(1 - np.abs((place - centre[:, None] + 0.5) / support), 0) * (place < end[:, None])
    weight /= weight.sum(1, keepdims=True)
    shift = next(bits for bits in range(23) if int(0.5 + weight.max() * 2 ** (bits + 1)) >= 2**15)
    return Taps(start.astype(np.int32), (0.5 + weight * 2**shift).astype(np.int32), shift)


def tap_count(side: int, size: int) -> int:
    """The number of source pixels along an axis that one pixel of a clip depends on, at most."""
    return 2 if side <= size else 2 * ceil(side / size) + 1
