"""Feature gating of several branches, concatenated: an autograd function and its Triton kernels."""

# Code that Triton compiles has no Python types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from paramcrop.models.fused import TILE, empty, grid_of, last, rows, vector_of
from paramcrop.models.tiles import place_of, tile_of


def gated_cat(branches: Sequence[Tensor], linears: Sequence[nn.Linear]) -> Tensor:
    """``gated`` of each branch (B, C_i, T, H, W), concatenated; the linear layers compute in the branches' type."""
    weights = [p for linear in linears for p in (linear.weight, linear.bias)]
    with torch.cuda.device_of(branches[0]):
        out: Tensor = _GatedCat.apply(len(branches), *branches, *weights)
    return out


class _GatedCat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *inputs: Tensor) -> Tensor:
        branches, weights = [last(x) for x in inputs[:count]], inputs[count:]
        b, _, *size = branches[0].shape
        out = empty((b, sum(x.shape[1] for x in branches), *size), branches[0])
        saved: list[Tensor] = []
        with torch.autocast(out.device.type, enabled=False):
            parts = out.split([x.shape[1] for x in branches], 1)
            for x, y, weight, bias in zip(branches, parts, weights[::2], weights[1::2], strict=True):
                weight, mean = weight.to(x.dtype), _average(x)
                gates = F.linear(mean, weight, bias.to(x.dtype)).sigmoid()
                _launch_tiles(gate, (y, x), (gates,))
                saved += [x, weight, mean, gates]
        ctx.types = [w.dtype for w in weights]
        ctx.save_for_backward(*saved)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        branches = saved[::4]
        of_x, of_weights = list[Tensor](), list[Tensor]()
        with torch.cuda.device_of(grad), torch.autocast(grad.device.type, enabled=False):
            grad = rows(grad).view(grad.shape[0], *grad.shape[2:], grad.shape[1]).permute(0, 4, 1, 2, 3)
            parts = grad.split([x.shape[1] for x in branches], 1)
            for part, x, weight, mean, gates in zip(parts, branches, *(saved[k::4] for k in (1, 2, 3)), strict=True):
                of_logits = torch.ops.aten.sigmoid_backward(_differentiate_gates(part, x), gates).to(x.dtype)
                dx = torch.empty_like(x)
                _launch_tiles(differentiate_gated, (dx, part), (gates, of_logits @ weight))
                of_x.append(dx)
                of_weights += [of_logits.T @ mean, of_logits.sum(0)]
        cast = (g.to(dtype) for g, dtype in zip(of_weights, ctx.types, strict=True))
        return None, *of_x, *cast


def _average(x: Tensor) -> Tensor:
    out = torch.empty(x.shape[:2], dtype=x.dtype, device=x.device)
    _launch_sums(average, out, x)
    return out


def _differentiate_gates(grad: Tensor, x: Tensor) -> Tensor:
    out = torch.empty(x.shape[:2], dtype=x.dtype, device=x.device)
    _launch_sums(differentiate_gates, out, grad, x)
    return out


def _launch_sums(kernel: Any, out: Tensor, *tensors: Tensor) -> None:
    """Launch a program for each clip and block of channels."""
    tables = [rows(x) for x in tensors]
    vector, (b, channels) = vector_of(*tables), out.shape
    (_, blocks), tile = grid_of(1, channels, TILE)
    spread = [value for x in tables for value in (x, x.stride(0) // vector)]
    kernel[(b, blocks)](out, *spread, len(tables[0]) // b, channels // vector, VEC=vector, **tile)


def _launch_tiles(kernel: Any, tensors: tuple[Tensor, Tensor], clips: tuple[Tensor, ...]) -> None:
    """Launch a program for each tile of each clip; ``tensors``: output, input; ``clips``: (B, channels) each."""
    tables = [rows(x) for x in tensors]
    vector, (b, channels) = vector_of(*tables), clips[0].shape
    each = len(tables[0]) // b
    (heights, widths), tile = grid_of(each, channels, TILE)
    spread = [value for x in tables for value in (x, x.stride(0) // vector)]
    kernel[(heights, widths, b)](*spread, *clips, each, channels // vector, VEC=vector, **tile)


@triton.jit
def average(out, x, x_row, rows, groups, VEC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """Mean over the ``rows`` of each clip -> (B, channels)."""
    b, block, channels = tl.program_id(0), tl.program_id(1), groups * VEC
    total = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for start in range(0, rows, BLOCK_M):
        row, channel, inside = tile_of(start, rows, channels, BLOCK_M, BLOCK_C, block)
        total += tl.load(x + place_of(b * rows + row, x_row * VEC, channel), inside, 0.0).to(tl.float32)
    column = block * BLOCK_C + tl.arange(0, BLOCK_C)
    tl.store(out + b * channels + column, tl.sum(total, 0) / rows, column < channels)


@triton.jit
def gate(
    y, y_row, x, x_row, gates, rows, groups, VEC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """y = x times the gates of its clip (B, channels)."""
    b, channels = tl.program_id(2), groups * VEC
    row, channel, inside = tile_of(tl.program_id(0) * BLOCK_M, rows, channels, BLOCK_M, BLOCK_C, tl.program_id(1))
    value = tl.load(x + place_of(b * rows + row, x_row * VEC, channel), inside, 0.0).to(tl.float32)
    value *= tl.load(gates + b * channels + channel, channel < channels, 0.0).to(tl.float32)
    tl.store(y + place_of(b * rows + row, y_row * VEC, channel), value, inside)


@triton.jit
def differentiate_gates(
    out, grad, grad_row, x, x_row, rows, groups, VEC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """<gradient, x> of each clip and channel -> (B, channels)."""
    b, block, channels = tl.program_id(0), tl.program_id(1), groups * VEC
    total = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for start in range(0, rows, BLOCK_M):
        row, channel, inside = tile_of(start, rows, channels, BLOCK_M, BLOCK_C, block)
        value = tl.load(x + place_of(b * rows + row, x_row * VEC, channel), inside, 0.0).to(tl.float32)
        total += value * tl.load(grad + place_of(b * rows + row, grad_row * VEC, channel), inside, 0.0).to(tl.float32)
    column = block * BLOCK_C + tl.arange(0, BLOCK_C)
    tl.store(out + b * channels + column, tl.sum(total, 0), column < channels)


@triton.jit
def differentiate_gated(
    dx, dx_row, grad, grad_row, gates, of_mean, rows, groups,
    VEC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradient of x: through the product, and through the mean that the gates depend on."""
    b, channels = tl.program_id(2), groups * VEC
    row, channel, inside = tile_of(tl.program_id(0) * BLOCK_M, rows, channels, BLOCK_M, BLOCK_C, tl.program_id(1))
    value = tl.load(grad + place_of(b * rows + row, grad_row * VEC, channel), inside, 0.0).to(tl.float32)
    value *= tl.load(gates + b * channels + channel, channel < channels, 0.0).to(tl.float32)
    value += tl.load(of_mean + b * channels + channel, channel < channels, 0.0).to(tl.float32) / rows
    tl.store(dx + place_of(b * rows + row, dx_row * VEC, channel), value, inside)
