"""Applying a crop to pixels: Eq. 8 in time, bilinear in space.

With c = d = 0 in Eq. 3 the crop is separable. Time picks whole frames, so the frames a crop needs are gathered first,
still uint8, and only those are turned to float, augmented and resampled. Space is one small matrix per axis (one 2-D
warp where the crop is rotated).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paramcrop.geometry import CropParams, affine_matrix, map_to_source, pixel_centres, to_pixels

ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {"round": torch.round, "floor": torch.floor}


def to_float(frames: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]; floating point as it is."""
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames


def crop_cube(
    video: Tensor,
    params: CropParams,
    size: tuple[int, int, int],
    prepare: Callable[[Tensor], Tensor] = to_float,
    rounding: str = "round",
) -> Tensor:
    """Cut and resample one cube per video; differentiable in every parameter, not in the video.

    Every output frame comes from one whole frame of the input, never from a blend of two. The derivative in time, which
    Eq. 8 passes straight through the rounding, is ours to define at a whole frame: the central difference of the two
    neighbouring frames (one-sided at the ends). It is gathered in the backward pass alone.

    Args:
        video: (B, C, T, H, W), uint8 or float.
        params: six (B,) tensors, float32 or float64.
        size: (frames, height, width) of the output.
        prepare: frames (B, C, n, H, W) as stored -> float, the same for any n (augmentation goes here).
        rounding: "round" as Eq. 8 is printed, or "floor" as the text above it says.

    Returns:
        (B, C, *size), of the dtype ``prepare`` returns.

    Raises:
        ValueError: the video is not 5-dimensional, or its batch is not that of the parameters.
    """
    if video.ndim != 5 or len(video) != len(params.s_p):
        raise ValueError(
            f"video must be (B, C, T, H, W) with B = {len(params.s_p)} as in params, but is {tuple(video.shape)}"
        )
    with torch.autocast(video.device.type, enabled=False):  # coordinates do not survive 8 bits of mantissa
        matrix = affine_matrix(params)
        t = round_time(frame_positions(matrix, size[0], video.shape[2]), rounding)  # (B, n)
        index = t.detach().nan_to_num().long()  # croppers gone NaN show in the pixels and the loss, not as a bad index
        view = resample(prepare(gather_frames(video, index)), matrix, size[1:], params.theta is not None)
        if not t.requires_grad:
            return view

        def slope() -> Tensor:  # d view / d t, in units of one frame
            after, before = (index + 1).clamp(max=video.shape[2] - 1), (index - 1).clamp(min=0)
            gap = (after - before).clamp(min=1)[:, None, :, None, None]
            rise = prepare(gather_frames(video, after)) - prepare(gather_frames(video, before))
            return resample(rise / gap, matrix.detach(), size[1:], params.theta is not None)

        differentiable: Tensor = _TimeDerivative.apply(view, t, slope)
        return differentiable


def frame_positions(matrix: Tensor, n: int, frames: int) -> Tensor:
    """Eq. 4 along t: positions of n output frames in the source -> (B, n), frame units, in [0, frames - 1]."""
    t = pixel_centres(n, matrix)
    points = torch.stack([torch.zeros_like(t), torch.zeros_like(t), t], -1)
    return to_pixels(map_to_source(matrix, points)[..., 2], frames)


def round_time(t: Tensor, rounding: str = "round") -> Tensor:
    """Eq. 8: t' = t - detach(t - round(t)), ``t`` in frame units; the gradient passes straight through."""
    return t - (t - ROUNDINGS[rounding](t)).detach()


def gather_frames(video: Tensor, index: Tensor) -> Tensor:
    """(B, C, T, H, W) and frame numbers (B, n) -> (B, C, n, H, W)."""
    rows = torch.arange(len(video), device=video.device)[:, None]
    return video.transpose(1, 2)[rows, index].transpose(1, 2)


def resample(frames: Tensor, matrix: Tensor, size: tuple[int, int], rotated: bool) -> Tensor:
    """Bilinear resampling in the image plane: (B, C, n, H, W) -> (B, C, n, *size)."""
    return _warp(frames, matrix, size) if rotated else _scale(frames, matrix, size)


def _scale(frames: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    y, x = pixel_centres(size[0], matrix), pixel_centres(size[1], matrix)
    zeros_x, zeros_y = torch.zeros_like(x), torch.zeros_like(y)
    x = map_to_source(matrix, torch.stack([x, zeros_x, zeros_x], -1))[..., 0]  # (B, w)
    y = map_to_source(matrix, torch.stack([zeros_y, y, zeros_y], -1))[..., 1]  # (B, h)
    (b, c, n, height, width), (h, w) = frames.shape, size
    across, down = bilinear_weights(x, width), bilinear_weights(y, height)
    # One product per axis and sample: a broadcast over frames would copy the weights for each of them.
    wide = frames.to(matrix.dtype).reshape(b, c * n * height, width) @ across.mT
    columns = wide.view(b, c * n, height, w).transpose(1, 2).reshape(b, height, c * n * w)
    return (down @ columns).view(b, h, c * n, w).transpose(1, 2).reshape(b, c, n, h, w)


def bilinear_weights(coordinates: Tensor, n: int) -> Tensor:
    """Weights of n pixels at each coordinate: (B, m) -> (B, m, n), rows summing to 1, at most two not zero."""
    centres = torch.arange(n, device=coordinates.device, dtype=coordinates.dtype)
    return (1 - (to_pixels(coordinates, n)[..., None] - centres).abs()).clamp(min=0)


def _warp(frames: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    b, c, n, h, w = frames.shape
    grid = F.affine_grid(matrix[:, :2][..., [0, 1, 3]], [b, 1, *size], align_corners=False)  # (B, h', w', 2)
    plane = frames.to(matrix.dtype).reshape(b, c * n, h, w)
    warped = F.grid_sample(plane, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped.view(b, c, n, *size)


class _TimeDerivative(torch.autograd.Function):
    """Passes ``view`` on and gives ``t`` (B, n) the gradient <grad, d view / d t> per output frame."""

    @staticmethod
    def forward(ctx: Any, view: Tensor, t: Tensor, slope: Callable[[], Tensor]) -> Tensor:
        ctx.slope = slope
        return view.view_as(view)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        with torch.no_grad(), torch.autocast(grad.device.type, enabled=False):
            return grad, (grad * ctx.slope()).sum((1, 3, 4)), None
