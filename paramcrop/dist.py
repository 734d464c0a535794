"""Process-group helpers that also work without a process group: a single process is rank 0 of 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor


def rank() -> int:
    return td.get_rank() if td.is_initialized() else 0


def world_size() -> int:
    return td.get_world_size() if td.is_initialized() else 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        out = x.new_empty(world_size() * len(x), *x.shape[1:])
        td.all_gather_into_tensor(out, x.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # The losses of all ranks depend on this rank's rows, so their gradients are summed. DDP then takes the mean
        # over ranks, which gives the gradient of the mean loss: a loss must not be multiplied by world_size.
        total = grads[0].contiguous()
        td.all_reduce(total)
        return total[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather(x: Tensor) -> Tensor:
    """The rows of all ranks in rank order, with gradient: (B, ...) -> (world_size x B, ...).

    Every rank must pass the same shape.
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered


def gather_objects(value: Any) -> list[Any]:
    """A small picklable value of every rank, in rank order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    td.all_gather_object(values, value)
    return values


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of x over ranks, without gradient."""
    if world_size() == 1:
        return x.detach()
    x = x.detach().clone()
    td.all_reduce(x)
    return x / world_size()


def mean_scalars(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """The means of scalars over ranks, in a single exchange; must be called on every rank."""
    values = mean_over_ranks(torch.stack([value.detach().float() for value in scalars.values()]))
    return dict(zip(scalars, values.tolist(), strict=True))


def values_of_ranks(x: Tensor) -> Tensor:
    """The scalars of all ranks -> (world_size,), without gradient."""
    return gather(x.detach().reshape(1))
