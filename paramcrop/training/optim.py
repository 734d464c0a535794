"""Optimiser, parameter groups and the learning-rate schedule per step."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from paramcrop.models.layers import has_triton

Group = dict[str, Any]


class HasParameters(typing.Protocol):
    """The part of ``nn.Module`` that an optimiser needs."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...


def network_groups(
    modules: Iterable[HasParameters], lr: float, momentum: float, weight_decay: float, clip_norm: float | None = None
) -> list[Group]:
    """Two groups: tensors of two or more dimensions, and the rest (biases, norms), without LARS scaling or decay.

    Args:
        clip_norm: largest norm of the gradient of both together; None: any. A ``Stepper`` clips it.

    The step of LARS is proportional to |w|, so a scaled tensor that starts at zero, such as a bias, would never move.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    shared = {
        "peak_lr": lr,
        "lr": lr,
        "momentum": momentum,
        "schedule": "cosine",
        "network": True,
        "clip_norm": clip_norm,
    }
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay, "adapt": True, **shared},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "adapt": False, **shared},
    ]


def cropper_group(
    module: HasParameters,
    lr: float,
    momentum: float,
    weight_decay: float,
    schedule: str,
    adapt: bool,
    clip_norm: float | None = None,
) -> list[Group]:
    """The group of the croppers; empty for a policy without parameters."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    group = {"params": parameters, "peak_lr": lr, "lr": lr, "momentum": momentum, "weight_decay": weight_decay}
    group |= {"schedule": schedule, "adapt": adapt, "network": False, "clip_norm": clip_norm}
    return [group] if parameters else []


def parts_of(optimizer: Optimizer) -> dict[str, list[Group]]:
    """Name of a gradient norm in the metrics -> its groups: the network's, and the croppers' if there are any."""
    parts = {"grad_norm": True, "grad_norm_cropper": False}
    found = {name: [g for g in optimizer.param_groups if g["network"] is network] for name, network in parts.items()}
    return {name: groups for name, groups in found.items() if groups}


def make_optimizer(groups: list[Group], name: str, trust: float = 0.001) -> Optimizer:
    """Torch's SGD with momentum ("sgd"), or LARS ("lars"), which scales only the groups with ``adapt``."""
    groups = [group for group in groups if group["params"]]
    if name == "lars":
        return Lars(groups, trust=trust)
    on_gpu = all(p.is_cuda for group in groups for p in group["params"])
    return SGD(groups, lr=0.0, momentum=0.9, fused=on_gpu or None)  # fused: can skip an update without waiting


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load a state that may come from another kind of device; how this device computes a step stays the same."""
    fused = [group.get("fused") for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, value in zip(optimizer.param_groups, fused, strict=True):
        if "fused" in group:
            group["fused"] = value


class Lars(Optimizer):
    """SGD with momentum that scales the gradient by trust x |w| / (|g| + decay x |w|) in groups with ``adapt``.

    Source: You et al. 2017. The learning rate is outside the momentum as in torch's SGD, which it equals without
    ``adapt``. A tensor whose norm or gradient is zero is not scaled, because it would never leave zero. Other libraries
    tie the scaling to weight decay; here the two are independent.

    On a GPU, a group takes two kernel launches. As in torch's own optimizers, nothing is updated if the attribute
    ``found_inf``, a tensor, is set and not 0.
    """

    def __init__(self, params: list[Group], lr: float = 0.0, trust: float = 0.001) -> None:
        defaults = {"lr": lr, "momentum": 0.9, "weight_decay": 0.0, "trust": trust, "adapt": True}
        super().__init__(params, defaults)
        self.chunks: dict[tuple[int, ...], Any] = {}  # the division of each group's tensors, for the kernels

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        skip: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            learned = [p for p in group["params"] if p.grad is not None]
            if learned and fits_kernels(learned):
                self._update_together(learned, group, skip)
            elif skip is None or not skip.item():  # this waits for the GPU
                for p in learned:
                    self._update(p, p.grad, group)
        return loss

    def _update_together(self, params: list[Tensor], group: Group, skip: Tensor | None) -> None:
        from paramcrop.training.gpu.lars_kernels import chunks_of, step_together

        for p in params:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        key = tuple(map(id, params))
        if key not in self.chunks:
            self.chunks[key] = chunks_of(params)
        momenta = [self.state[p]["momentum_buffer"] for p in params]
        grads = [p.grad for p in params if p.grad is not None]
        step_together(params, grads, momenta, self.chunks[key], group, skip)

    def _update(self, p: Tensor, grad: Tensor, group: Group) -> None:
        step = grad.add(p, alpha=group["weight_decay"])
        if group["adapt"]:
            w, g = p.norm(), grad.norm()
            ratio = group["trust"] * w / (g + group["weight_decay"] * w)
            step = step * torch.where((w > 0) & (g > 0), ratio, torch.ones_like(ratio))
        state = self.state[p]
        state["momentum_buffer"] = step if not state else state["momentum_buffer"].mul_(group["momentum"]).add_(step)
        p.sub_(state["momentum_buffer"], alpha=group["lr"])


def fits_kernels(params: list[Tensor]) -> bool:
    """Whether the kernels can take these tensors: float32, on a GPU."""
    return has_triton() and all(p.is_cuda and p.dtype == torch.float32 for p in params)


def lr_factor(step: int, steps: int, warmup: int) -> float:
    """Fraction of the peak rate at ``step`` of ``steps``: linear over ``warmup`` steps, then a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return cosine_decay(step - warmup, max(steps - warmup, 1))


def cosine_decay(done: float, total: float) -> float:
    """Half a cosine: 1 at 0 of ``total`` steps or epochs, 0 at the last."""
    return 0.5 * (1 + math.cos(math.pi * done / total))


def set_lr(optimizer: Optimizer, step: int, steps: int, warmup: int) -> None:
    """Set the learning rate of every group for ``step``; a "constant" group keeps its peak."""
    for group in optimizer.param_groups:
        factor = lr_factor(step, steps, warmup) if group["schedule"] == "cosine" else 1.0
        group["lr"] = group["peak_lr"] * factor


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    return {("lr" if g["network"] else "lr_cropper"): g["lr"] for g in optimizer.param_groups}
