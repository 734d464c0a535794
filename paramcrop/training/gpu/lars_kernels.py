"""LARS for all tensors of a group in two launches. A value on the GPU can make them change nothing.

``paramcrop.training.optim.Lars``, which takes one tensor at a time, is the definition.
"""

# Code that Triton compiles has no Python types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 2048  # values per program


class Chunks(NamedTuple):
    """The division of a group's tensors into chunks of CHUNK values, one tensor after the other.

    Attributes (int32, on the device of the tensors):
        tensor, start: of each chunk: the number of its tensor, and its first value in that tensor.
        first: the first chunk of each tensor, and the number of all chunks at the end.
        size: number of values of each tensor.
    """

    tensor: Tensor
    start: Tensor
    first: Tensor
    size: Tensor


def chunks_of(params: Sequence[Tensor]) -> Chunks:
    counts = [-(-p.numel() // CHUNK) for p in params]
    firsts = [sum(counts[:i]) for i in range(len(counts) + 1)]
    places = [(i, CHUNK * k) for i, count in enumerate(counts) for k in range(count)]
    columns = [i for i, _ in places], [start for _, start in places], firsts, [p.numel() for p in params]
    return Chunks(*(torch.tensor(column, dtype=torch.int32, device=params[0].device) for column in columns))


@torch.no_grad()
def step_together(
    params: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    chunks: Chunks,
    group: dict[str, Any],
    skip: Tensor | None = None,
) -> None:
    """One step of the tensors of a group, which are float32 and on one device.

    Args:
        momenta: momentum of each tensor; zeros before its first step.
        group: ``lr``, ``momentum``, ``weight_decay``, ``trust``, ``adapt``.
        skip: a value on the device; if it is not 0, nothing is changed.
    """
    grads = [_laid_out(grad, p) for grad, p in zip(grads, params, strict=True)]
    device, count = params[0].device, len(chunks.tensor)
    addresses = torch.tensor([[x.data_ptr() for x in tensors] for tensors in (params, grads, momenta)])
    if device.type == "cuda":
        addresses = addresses.pin_memory().to(device, non_blocking=True)
    squares = torch.empty(count, 2, device=device)
    with torch.cuda.device_of(params[0]):
        if group["adapt"]:
            sum_squares[(count,)](squares, addresses, *chunks, len(params), BLOCK=CHUNK, num_warps=8)
        update[(count,)](
            *(squares, addresses, *chunks, len(params), squares if skip is None else skip),
            *(float(group[name]) for name in ("lr", "momentum", "weight_decay", "trust")),
            ADAPT=group["adapt"],
            SKIP=skip is not None,
            BLOCK=CHUNK,
            num_warps=8,
        )


def _laid_out(grad: Tensor, p: Tensor) -> Tensor:
    """The gradient with the memory layout of its tensor."""
    return grad if grad.stride() == p.stride() else torch.empty_like(p).copy_(grad)


@triton.jit
def _values(addresses, number, start, size, BLOCK: tl.constexpr):
    """Pointers to a chunk of a tensor, and which of them exist."""
    pointer = tl.load(addresses + number).to(tl.pointer_type(tl.float32))
    place = start + tl.arange(0, BLOCK)
    return pointer + place, place < size


@triton.jit
def sum_squares(squares, addresses, tensor, start, first, size, count, BLOCK: tl.constexpr):
    """Sums of squares of the weights and of the gradient, per chunk -> (chunks, 2)."""
    chunk = tl.program_id(0)
    number, begin = tl.load(tensor + chunk), tl.load(start + chunk)
    many = tl.load(size + number)
    at, inside = _values(addresses, number, begin, many, BLOCK)
    w = tl.load(at, inside, 0.0)
    at, inside = _values(addresses, count + number, begin, many, BLOCK)
    g = tl.load(at, inside, 0.0)
    tl.store(squares + 2 * chunk, tl.sum(w * w))
    tl.store(squares + 2 * chunk + 1, tl.sum(g * g))


@triton.jit
def update(
    squares, addresses, tensor, start, first, size, count, skip, lr, momentum, decay, trust,
    ADAPT: tl.constexpr, SKIP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """v <- momentum v + ratio (g + decay w), w <- w - lr v; ratio = trust |w| / (|g| + decay |w|)."""
    chunk = tl.program_id(0)
    number, begin = tl.load(tensor + chunk), tl.load(start + chunk)
    many = tl.load(size + number)
    if SKIP:
        many = tl.where(tl.load(skip) == 0.0, many, 0)
    ratio = 1.0
    if ADAPT:
        length_w, length_g = _lengths(squares, tl.load(first + number), tl.load(first + number + 1))
        ratio = trust * length_w / (length_g + decay * length_w)
        ratio = tl.where((length_w > 0.0) & (length_g > 0.0), ratio, 1.0)
    at_w, inside = _values(addresses, number, begin, many, BLOCK)
    at_g, inside = _values(addresses, count + number, begin, many, BLOCK)
    at_v, inside = _values(addresses, 2 * count + number, begin, many, BLOCK)
    w = tl.load(at_w, inside, 0.0)
    v = momentum * tl.load(at_v, inside, 0.0) + ratio * (tl.load(at_g, inside, 0.0) + decay * w)
    tl.store(at_v, v, inside)
    tl.store(at_w, w - lr * v, inside)


@triton.jit
def _lengths(squares, first, last):
    """Norms of a tensor and of its gradient, from the sums of its chunks."""
    sum_w, sum_g = tl.zeros([128], tl.float32), tl.zeros([128], tl.float32)
    for start in range(first, last, 128):
        chunk = start + tl.arange(0, 128)
        inside = chunk < last
        sum_w += tl.load(squares + 2 * chunk, inside, 0.0)
        sum_g += tl.load(squares + 2 * chunk + 1, inside, 0.0)
    return tl.sqrt(tl.sum(sum_w)), tl.sqrt(tl.sum(sum_g))
