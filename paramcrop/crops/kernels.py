"""``augmented_view`` on a GPU: one pass from stored bytes to normalised pixels, and one for the gradient of the crop.

These Triton kernels compute what ``plain_view`` in ``paramcrop.crops.views`` defines. A view pixel reads the four
source pixels around its place, augments them and blends them, so nothing is stored between the clip and the view. The
backward pass keeps only the clip and the parameters. It reads each view frame's source frame for the derivative in
space, and the two neighbours of that frame for the derivative in time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from paramcrop.crops import pixels
from paramcrop.crops.augment import Augmentation
from paramcrop.crops.geometry import CropParams

BLOCK = 128  # view pixels per program, each with four source pixels
MEAN_BLOCK = 1024  # pixels that a frame's mean sums at a time


class Job(NamedTuple):
    """Everything that a view depends on besides the parameters of the crop.

    Attributes:
        video: uint8 (B, 3, T, H, W), with any strides.
        size: (frames, height, width) of the view.
        drawn: flip and jitter, on the video's device; None: neither.
        floor: Eq. 8 rounds down instead of to the nearest frame.
        mean, std: normalisation of the pixels, which are in [0, 1].
        dtype: type of the view.
    """

    video: Tensor
    size: tuple[int, int, int]
    drawn: Augmentation | None
    floor: bool
    mean: float
    std: float
    dtype: torch.dtype


def fused_view(params: CropParams, job: Job) -> Tensor:
    """The view (B, 3, *size), channels last in memory; differentiable once in every parameter."""
    values = [None if p is None else p.float().contiguous() for p in params]
    with torch.cuda.device_of(job.video):  # Triton launches on the current device
        view: Tensor = _View.apply(*values, job)
    return view


class _View(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        params, ctx.job = CropParams(*inputs[:6]), inputs[6]
        index = frame_numbers(params, ctx.job)
        means = torch.empty(*index.shape, 3, device=index.device)  # of the previous, the own and the next frame
        if ctx.job.drawn is not None:
            frame_means(means, index, ctx.job, first=1, count=1)
        ctx.save_for_backward(*params, index, means)
        return _make(params, index, means, ctx.job)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *saved, index, means = ctx.saved_tensors
        params = CropParams(*saved)
        with torch.cuda.device_of(grad):
            if ctx.job.drawn is not None:
                frame_means(means, index, ctx.job, first=0, count=2)
            grads = _differentiate(grad, params, index, means, ctx.job)
        return *(None if p is None else g for g, p in zip(grads, params, strict=True)), None


def frame_numbers(params: CropParams, job: Job) -> Tensor:
    """Eq. 4 along t, and Eq. 8: the source frame of every view frame, int32 (B, n)."""
    b, n = len(params.s_t), job.size[0]
    index = torch.empty(b, n, dtype=torch.int32, device=job.video.device)
    # Without fused multiply-adds, as in PyTorch: at a tie, the last bit decides which frame it is.
    grid = (-(-b * n // 128),)
    pixels.number_frames[grid](
        index, params.s_t, params.dt, b, n, job.video.shape[2], FLOOR=job.floor, BLOCK=128, enable_fp_fusion=False
    )
    return index


def frame_means(means: Tensor, index: Tensor, job: Job, first: int, count: int) -> None:
    """Write the frame means that contrast needs into ``means`` (B, n, 3): of source frames ``index`` - 1, + 0, + 1.

    Computes ``count`` of these three columns: ``first`` and every second one after it. Samples without contrast are
    left out.
    """
    assert job.drawn is not None
    video, drawn = job.video, job.drawn
    pixels.average_frames[(index.shape[1], len(index), count)](
        *(means, index, video, *video.stride(), *video.shape[2:]),
        *(drawn.order, drawn.order.stride(0), drawn.factors, drawn.factors.stride(0)),
        FIRST=first,
        BLOCK=MEAN_BLOCK,
    )


def _make(params: CropParams, index: Tensor, means: Tensor, job: Job) -> Tensor:
    n, height, width = job.size
    # No permuted view of another tensor: autograd would forbid the caller to change it in place.
    last = torch.channels_last_3d
    view = torch.empty(len(index), 3, n, height, width, dtype=job.dtype, device=index.device, memory_format=last)
    pixels.make_view[(-(-height * width // BLOCK), n, len(index))](
        *(view, *view.stride(), *_shared(params, index, means, job), params.s_t, params.dt, job.mean, job.std),
        **_constants(params, job),
    )
    return view


def _differentiate(grad: Tensor, params: CropParams, index: Tensor, means: Tensor, job: Job) -> list[Tensor]:
    """Gradient of the view -> gradients of the six parameters, float32 (B,) each."""
    n, height, width = job.size
    tiles = -(-height * width // BLOCK)
    sums = torch.empty(len(index), n, tiles, 8, device=grad.device)
    pixels.differentiate_view[(tiles, n, len(index))](
        *(sums, grad, *grad.stride(), *_shared(params, index, means, job), job.std),
        **_constants(params, job),
    )
    grads = torch.empty(6, len(index), device=grad.device)
    pixels.to_parameters[(len(index),)](
        *(grads, sums, params.s_p, params.s_t, _theta(params), params.dt, len(index), n, tiles, *job.video.shape[2:]),
        ROTATE=params.theta is not None,
        BLOCK=128,
        enable_fp_fusion=False,  # as in ``frame_numbers``, so that both find the same times at the ends of the clip
    )
    return list(grads.unbind())


def _shared(params: CropParams, index: Tensor, means: Tensor, job: Job) -> tuple[Any, ...]:
    """Arguments that ``make_view`` and ``differentiate_view`` have in common."""
    drawn, video = job.drawn, job.video
    flip, order, factors = drawn or (index, index, means)  # not read if nothing was drawn
    rows = flip.stride(0), order.stride(0), factors.stride(0)
    return (
        *(job.size[1], job.size[2], video, *video.stride(), *video.shape[2:], index, means),
        *(params.s_p, _theta(params), params.dx, params.dy, flip, rows[0], order, rows[1], factors, rows[2]),
    )


def _constants(params: CropParams, job: Job) -> dict[str, Any]:
    return {"ROTATE": params.theta is not None, "AUGMENT": job.drawn is not None, "BLOCK": BLOCK}


def _theta(params: CropParams) -> Tensor:
    return params.s_p if params.theta is None else params.theta  # not read without rotation
