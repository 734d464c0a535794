"""Batch norm with ReLU, and max-pooling, as autograd functions that launch the Triton kernels of ``tiles``.

Tensors are channels last in memory, so a kernel sees them as (rows, channels): a row for each position of each clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from paramcrop.models import tiles
from paramcrop.models.layers import Norm, Size

PROGRAMS = 512  # programs of a sum over rows: about four per multiprocessor
TILE = 4096  # values per program where it writes as much as it reads
POOL_TILE = 1024  # values per program of pooling, which also holds the maxima and their places
EIGHT = 8  # channels that are read together if they divide a row


class _Job(NamedTuple):
    """How to normalise, and over which ranks: the ``ranks`` members of ``group`` (None: this rank alone)."""

    relu: bool
    momentum: float
    eps: float
    group: Any
    ranks: int


def norm_relu(x: Tensor, norm: Norm, relu: bool, rest: Tensor | None = None) -> Tensor:
    """Batch norm of x (B, C, T, H, W), plus ``rest`` of the same shape, then ReLU if asked; channels last in memory.

    In training mode it uses the mean and variance of the batch, over all ranks for a ``SyncBatchNorm`` (with equally
    many rows on each), and updates the running averages. In evaluation mode it uses the running averages and has no
    backward pass.
    """
    group = _group(norm)
    job = _Job(relu, norm.momentum or 0.0, norm.eps, group, td.get_world_size(group) if group is not None else 1)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        if norm.training:
            running = norm.running_mean, norm.running_var, norm.num_batches_tracked
            y: Tensor = _NormReLU.apply(x, norm.weight, norm.bias, rest, running, job)
            return y
        x, y = last(x), torch.empty_like(last(x))
        averages: Any = norm.running_mean, norm.running_var
        _normalise(y, x, None if rest is None else last(rest), averages, norm.weight, norm.bias, job, evaluation=True)
        return y


def pool(x: Tensor, kernel: Size, stride: Size, padding: Size) -> Tensor:
    """Maxima of x (B, C, T, H, W) over windows; the first of equal values takes the gradient, as in torch."""
    with torch.cuda.device_of(x):
        y: Tensor = _Pool.apply(x, kernel, stride, padding)
    return y


def last(x: Tensor) -> Tensor:
    """x with channels last in memory."""
    return x.contiguous(memory_format=torch.channels_last_3d)


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """An uninitialised tensor with channels last in memory, which is no view of another tensor."""
    return torch.empty(*shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last_3d)


def _group(norm: Norm) -> Any:
    if not isinstance(norm, nn.SyncBatchNorm) or not td.is_initialized():
        return None
    return norm.process_group or td.group.WORLD


class _NormReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, rest: Tensor | None, running: tuple[Tensor, ...], job: _Job
    ) -> Tensor:
        x = last(x)
        found = _moments(rows(x), running, job)
        y = torch.empty_like(x)
        _normalise(y, x, rest, (found[0], found[1]), weight, bias, job)
        ctx.job = job
        ctx.save_for_backward(x, found, weight, bias, None if rest is None else y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, found, weight, bias, y = ctx.saved_tensors
        with torch.cuda.device_of(x):
            return *_differentiate(grad, x, y, found, weight, bias, ctx.job), None, None


def _moments(x: Tensor, running: tuple[Tensor, ...], job: _Job) -> Tensor:
    """Rows -> float32 (2, C): mean and 1 / standard deviation, over all ranks; updates the ``running`` averages."""
    n, channels = x.shape
    vector = vector_of(x)
    count, per, blocks, tile = _split(n, channels, TILE)
    parts = torch.empty(count, 2, channels, device=x.device)
    sizes = n, channels // vector, per
    tiles.moments[(count, blocks)](parts, x, x.stride(0) // vector, *sizes, VEC=vector, **tile)
    if job.ranks > 1:
        mine = torch.empty(2, channels, device=x.device)
        _combine(mine, parts, per, n, running, job, final=False)
        parts, per = torch.empty(job.ranks, 2, channels, device=x.device), n
        td.all_gather_into_tensor(parts.flatten(0, 1), mine, job.group)
    found = torch.empty(2, channels, device=x.device)
    _combine(found, parts, per, n * job.ranks, running, job, final=True)
    return found


def _combine(out: Tensor, parts: Tensor, per: int, n: int, running: tuple[Tensor, ...], job: _Job, final: bool) -> None:
    count, _, channels = parts.shape
    tiles.combine_moments[(-(-channels // 8),)](
        *(out, parts, count, per, n, channels, *running, job.momentum, job.eps),
        FINAL=final,
        TRACK=final,
        BLOCK_S=_power(count, 256),
        BLOCK_C=8,
    )


def _normalise(
    y: Tensor,
    x: Tensor,
    rest: Tensor | None,
    moments: tuple[Tensor, Tensor],
    weight: Tensor,
    bias: Tensor,
    job: _Job,
    evaluation: bool = False,
) -> None:
    """Write the normalised x into ``y``; ``moments``: mean and 1 / standard deviation, in evaluation the variance."""
    out, inputs = rows(y), rows(x)
    more = out if rest is None else rows(rest)
    vector = vector_of(out, inputs, more)
    grid, tile = grid_of(inputs.shape[0], inputs.shape[1], TILE)
    tiles.normalise[grid](
        *(out, out.stride(0) // vector, inputs, inputs.stride(0) // vector, more, more.stride(0) // vector),
        *(inputs.shape[0], inputs.shape[1] // vector, *moments, weight, bias, job.eps),
        RELU=job.relu,
        REST=rest is not None,
        EVAL=evaluation,
        VEC=vector,
        **tile,
    )


def _differentiate(
    grad: Tensor, x: Tensor, y: Tensor | None, found: Tensor, weight: Tensor, bias: Tensor, job: _Job
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of x, weight, bias and of the tensor that was added, if any; y is the output then."""
    dx, d_rest = torch.empty_like(x), None if y is None else torch.empty_like(y)
    of, inputs, out = rows(grad), rows(x), rows(x if y is None else y)
    result, result_rest = rows(dx), rows(dx if d_rest is None else d_rest)
    n, channels = inputs.shape
    vector = vector_of(of, inputs, out, result, result_rest)
    read = of, of.stride(0) // vector, inputs, inputs.stride(0) // vector, out, out.stride(0) // vector
    kind = {"RELU": job.relu, "REST": y is not None, "VEC": vector}
    count, per, blocks, tile = _split(n, channels, TILE)
    parts, sums = (torch.empty(k, channels, device=x.device) for k in (2 * count, 3))
    tiles.gradient_sums[(count, blocks)](
        parts, *read, n, channels // vector, per, found[0], found[1], weight, bias, **kind, **tile
    )
    tiles.combine_sums[(-(-channels // 8),)](
        sums, parts, count, channels, found[1], BLOCK_S=_power(count, 256), BLOCK_C=8
    )
    everyones = sums
    if job.ranks > 1:
        everyones = sums[:2].clone()
        td.all_reduce(everyones, group=job.group)
    grid, tile = grid_of(n, channels, TILE)
    tiles.differentiate[grid](
        *(result, result.stride(0) // vector, result_rest, result_rest.stride(0) // vector, *read),
        *(n, channels // vector, n * job.ranks, everyones, found[0], found[1], weight, bias),
        **kind,
        **tile,
    )
    return dx, sums[2], sums[0], d_rest


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Size, stride: Size, padding: Size) -> Tensor:
        x = last(x)
        ctx.shape, ctx.window = x.shape, (kernel, stride, padding)
        size = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(x.shape[2:], kernel, stride, padding, strict=True)]
        y = empty((*x.shape[:2], *size), x)
        which = torch.empty_like(y, dtype=torch.uint8)
        _pool(tiles.pool, (y, which, x), y, x.shape, y.shape, ctx.window)
        ctx.save_for_backward(which)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (which,) = ctx.saved_tensors
        with torch.cuda.device_of(grad):
            grad = last(grad)
            dx = empty(ctx.shape, grad)
            _pool(tiles.differentiate_pool, (dx, grad, which), dx, ctx.shape, grad.shape, ctx.window)
        return dx, None, None, None


def _pool(
    kernel: Any, tensors: tuple[Tensor, ...], made: Tensor, inputs: torch.Size, outputs: torch.Size, window: Any
) -> None:
    """Launch one of the two pooling kernels, with a program for each tile of its output ``made``."""
    n, channels = rows(made).shape
    vector = vector_of(*map(rows, tensors))
    grid, tile = grid_of(n, channels, POOL_TILE)
    names = [f"{kind}_{axis}" for kind in "KSP" for axis in "TYX"]
    constants = dict(zip(names, [value for part in window for value in part], strict=True))
    kernel[grid](*tensors, n, channels // vector, *inputs[2:], *outputs[2:], **constants, VEC=vector, **tile)


def rows(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (positions, C); no copy if x, or the tensor that x is a slice of, is channels last."""
    moved = x.permute(0, 2, 3, 4, 1)
    if moved.stride(-1) == 1 or x.shape[1] == 1:
        try:
            return moved.view(-1, x.shape[1])
        except RuntimeError:  # x is expanded, like the gradient of a mean
            pass
    return moved.contiguous().view(-1, x.shape[1])


def vector_of(*tensors: Tensor) -> int:
    """Number of channels that can be read together: 8 if every row starts and ends at a multiple of 8."""
    for x in tensors:
        if x.stride(0) % EIGHT or x.storage_offset() % EIGHT or x.shape[1] % EIGHT:
            return 1
    return EIGHT


@cache
def grid_of(n: int, channels: int, values: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid of programs, and the tile of each: about ``values`` values, 32 or 64 channels wide to waste few lanes."""
    width = _power(channels, 64)
    if channels > 32 and -channels % 32 < -channels % 64:
        width = 32
    height = max(values // width, 1)
    return (-(-n // height), -(-channels // width)), {"BLOCK_M": height, "BLOCK_C": width}


@cache
def _split(n: int, channels: int, values: int) -> tuple[int, int, int, dict[str, int]]:
    """Split rows into parts for sums -> number of parts, rows per part, blocks of channels, tile."""
    (tiles_of_rows, blocks), tile = grid_of(n, channels, values)
    each = -(-tiles_of_rows // max(PROGRAMS // blocks, 1))
    per = each * tile["BLOCK_M"]
    return -(-n // per), per, blocks, tile


def _power(n: int, most: int) -> int:
    """The next power of two, at most ``most``."""
    return min(1 << (n - 1).bit_length(), most)
