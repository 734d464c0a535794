"""``clips_of`` on a GPU: one pass from stored planes to RGB clips, which computes what ``plain_clips`` defines."""

# Code that Triton compiles has no Python types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from paramcrop.crops import picture
from paramcrop.crops.picture import tap_count, taps

BLOCK = 256  # pixels of a clip per program
LUMA, BLACK, NEUTRAL = tl.constexpr(picture.LUMA), tl.constexpr(picture.BLACK), tl.constexpr(picture.NEUTRAL)
RED_V, BLUE_U = tl.constexpr(picture.RED_V), tl.constexpr(picture.BLUE_U)
GREEN_U, GREEN_V = tl.constexpr(picture.GREEN_U), tl.constexpr(picture.GREEN_V)
BITS = tl.constexpr(picture.UNIT.bit_length() - 1)


def fused_clips(planes: Tensor, boxes: Tensor) -> Tensor:
    """See ``clips_of``."""
    n, frames, _, side = planes.shape
    size, count = int(boxes[0, 3]), tap_count(side, int(boxes[0, 3]))
    tables = np.stack([scaling(box_side, size, count) for box_side in boxes[:, 2].tolist()])
    tables[:, :2] = boxes[:, :2]
    table = torch.from_numpy(tables).to(planes.device, non_blocking=True)
    clips = torch.empty(n, frames, size, size, 3, dtype=torch.uint8, device=planes.device)
    grid = (-(-size * size // BLOCK), frames, n)
    with torch.cuda.device_of(planes):  # Triton launches on the current device
        make_clips[grid](clips, planes.contiguous(), table, table.stride(0), side, size, TAPS=count, BLOCK=BLOCK)
    return clips


@cache
def scaling(side: int, size: int, count: int) -> np.ndarray:
    """int32: room for top and left of a box of ``side`` pixels, then shift, start and weights of its ``Taps``.

    Args:
        count: taps of a pixel, of which those beyond the box weigh nothing.
    """
    start, weight, shift = taps(side, size)
    weight = np.pad(weight, ((0, 0), (0, count - weight.shape[1])))
    return np.concatenate([[0, 0, shift], start, weight.reshape(-1)]).astype(np.int32)


@triton.jit
def make_clips(clips, planes, table, stride, side, size, TAPS: tl.constexpr, BLOCK: tl.constexpr):
    """A block of pixels of one frame of one clip. As in torch, rows are scaled first, and rounded to bytes."""
    n, frame = tl.program_id(2).to(tl.int64), tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size * size
    row, column = pixel // size, pixel % size
    at = n * tl.num_programs(1) + frame
    stored, table = planes + at * (side * side * 3 // 2), table + n * stride
    top, left, shift = tl.load(table), tl.load(table + 1), tl.load(table + 2)
    half = 1 << (shift - 1)
    start, weight = table + 3, table + 3 + size
    y, x = top + tl.load(start + row, inside, 0), left + tl.load(start + column, inside, 0)
    red, green, blue = row * 0 + half, row * 0 + half, row * 0 + half
    for i in range(TAPS):
        r, g, b = column * 0 + half, column * 0 + half, column * 0 + half
        for j in range(TAPS):
            # A tap beyond the picture has the weight 0.
            of_r, of_g, of_b = _colours(stored, tl.minimum(y + i, side - 1), tl.minimum(x + j, side - 1), side, inside)
            across = tl.load(weight + column * TAPS + j, inside, 0)
            r, g, b = r + across * of_r, g + across * of_g, b + across * of_b
        down = tl.load(weight + row * TAPS + i, inside, 0)
        red, green, blue = (
            red + down * _byte(r >> shift),
            green + down * _byte(g >> shift),
            blue + down * _byte(b >> shift),
        )
    out = clips + (at * size * size + pixel) * 3
    tl.store(out, _byte(red >> shift).to(tl.uint8), inside)
    tl.store(out + 1, _byte(green >> shift).to(tl.uint8), inside)
    tl.store(out + 2, _byte(blue >> shift).to(tl.uint8), inside)


@triton.jit
def _colours(stored, y, x, side, inside):
    """The colours of pixels (y, x) of a picture, 0 to 255, as in ``to_rgb``."""
    chroma = stored + side * side + y // 2 * (side // 2) + x // 2
    luma = (tl.load(stored + y * side + x, inside, 0).to(tl.int32) - BLACK) * LUMA >> BITS
    u = tl.load(chroma, inside, 0).to(tl.int32) - NEUTRAL
    v = tl.load(chroma + side * side // 4, inside, 0).to(tl.int32) - NEUTRAL
    green = luma + (v * GREEN_V >> BITS) + (u * GREEN_U >> BITS)
    return _byte(luma + (v * RED_V >> BITS)), _byte(green), _byte(luma + (u * BLUE_U >> BITS))


@triton.jit
def _byte(x):
    return tl.minimum(tl.maximum(x, 0), 255)
