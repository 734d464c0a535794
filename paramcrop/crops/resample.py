"""Applying a crop to pixels: Eq. 8 in time, bilinear in space.

With c = d = 0 in Eq. 3 the crop is separable. Time picks whole frames, so the frames a crop needs are gathered first,
still uint8, and only those are turned to float, augmented and resampled, all planes of a sample by one grid. Backward
is derived by hand: the video takes no gradient, so a grid's and the frame numbers' are all that is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paramcrop.crops.geometry import CropParams, affine_matrix, map_to_source, pixel_centres, to_pixels

SPAN = 2  # frames at a time in the backward pass through time: what is alive at once there
Rise = Callable[[slice], tuple[Tensor, Tensor]]
ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {"round": torch.round, "floor": torch.floor}


def to_float(frames: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1], laid out plane by plane; floating point as it is."""
    if frames.dtype != torch.uint8:
        return frames
    planes = torch.empty(frames.shape, device=frames.device)  # one pass for type and layout
    return planes.copy_(frames).mul_(1 / 255)


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
        index = t.detach().nan_to_num().long()  # croppers gone NaN show in pixels and loss, not as a bad index
        frames = prepare(gather_frames(video, index)).to(matrix.dtype)
        grid = image_grid(matrix, size[1:])

        def rise(span: slice) -> tuple[Tensor, Tensor]:
            """(B, C, n, H, W) and (B, n) of some output frames: their next less their last, how far apart these are."""
            after, before = (index[:, span] + 1).clamp(max=video.shape[2] - 1), (index[:, span] - 1).clamp(min=0)
            change = prepare(gather_frames(video, after)) - prepare(gather_frames(video, before))
            return change.to(matrix.dtype), (after - before).clamp(min=1)

        view: Tensor = _Resample.apply(frames, grid, t, rise)
        return view


def frame_positions(matrix: Tensor, n: int, frames: int) -> Tensor:
    """Eq. 4 along t: positions of n output frames in the source -> (B, n), frame units, in [0, frames - 1]."""
    t = pixel_centres(n, matrix)
    points = torch.stack([torch.zeros_like(t), torch.zeros_like(t), t], -1)
    return to_pixels(map_to_source(matrix, points)[..., 2], frames)


def round_time(t: Tensor, rounding: str = "round") -> Tensor:
    """Eq. 8: t' = t - detach(t - round(t)), ``t`` in frame units; the gradient passes straight through."""
    return t - (t - ROUNDINGS[rounding](t)).detach()


def gather_frames(video: Tensor, index: Tensor) -> Tensor:
    """(B, C, T, H, W) and frame numbers (B, n) -> (B, C, n, H, W), of the same layout in memory."""
    rows = torch.arange(len(video), device=video.device)[:, None]
    stored = video.permute(0, 2, 3, 4, 1)
    if stored.is_contiguous():  # as clips come: whole frames are copied
        frames: Tensor = stored.flatten(0, 1).index_select(0, (rows * stored.shape[1] + index).flatten())
        return frames.reshape(*index.shape, *stored.shape[2:]).permute(0, 4, 1, 2, 3)
    return video.transpose(1, 2)[rows, index].transpose(1, 2)


def image_grid(matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Eq. 3 and 4 in the image plane: where the pixels of a view lie in its source -> (B, *size, 2), x and y."""
    return F.affine_grid(matrix[:, :2][..., [0, 1, 3]], [len(matrix), 1, *size], align_corners=False)


def resample(frames: Tensor, grid: Tensor) -> Tensor:
    """Bilinear resampling in the image plane: (B, C, n, H, W) at (B, h, w, 2) -> (B, C, n, h, w)."""
    sampled = F.grid_sample(frames.flatten(1, 2), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.view(*frames.shape[:3], *grid.shape[1:3])


def along_time(grad: Tensor, grid: Tensor, change: Tensor, gap: Tensor) -> Tensor:
    """<grad, d view / d t> per frame: (B, C, n, h, w), (B, h, w, 2), (B, C, n, H, W), (B, n) -> (B, n)."""
    slope: Tensor = torch.linalg.vecdot(grad, resample(change, grid))
    return slope.sum((1, 3)) / gap


class _Resample(torch.autograd.Function):
    """``resample``, with a gradient for the grid, and for ``t`` (B, n): <grad, d view / d t> per output frame.

    d view / d t is ours to define at a whole frame: the central difference of the two neighbouring frames (one-sided
    at the ends). ``rise`` gives it, asked in the backward pass alone, for few frames at a time.
    """

    @staticmethod
    def forward(ctx: Any, frames: Tensor, grid: Tensor, t: Tensor, rise: Rise) -> Tensor:
        ctx.rise = rise
        finite = grid.nan_to_num()
        ctx.save_for_backward(frames, finite)
        view = resample(frames, finite)
        view[..., 0, 0] += 0 * grid[:, None, None, 0, 0, 0]  # croppers gone NaN must show in the loss; see crop_cube
        return view

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor | None, Tensor | None, None]:
        frames, grid = ctx.saved_tensors
        (grad,) = grads
        of_grid = of_t = None
        with torch.autocast(grad.device.type, enabled=False):
            if ctx.needs_input_grad[1]:
                planes = grad.flatten(1, 2), frames.flatten(1, 2)
                of_grid = torch.ops.aten.grid_sampler_2d_backward(*planes, grid, 0, 1, False, [False, True])[1]
            if ctx.needs_input_grad[2]:
                spans = [slice(i, i + SPAN) for i in range(0, grad.shape[2], SPAN)]
                of_t = torch.cat([along_time(grad[:, :, span], grid, *ctx.rise(span)) for span in spans], 1)
        return None, of_grid, of_t, None
