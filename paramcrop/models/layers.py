"""The layers of all backbones: their norms, and chains of layers that run as few kernels on a GPU.

The modules, and so the names in a state dict, are torch's; ``Chain`` looks at which of them follow one another.
Whatever the kernels do not take (CPUs, group norm, other types) runs in torch's own operations, which define the
result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paramcrop import dist

NORMS = ("batch", "group")
TYPES = (torch.float32, torch.bfloat16, torch.float16)
Norm = nn.BatchNorm3d | nn.SyncBatchNorm
Size = tuple[int, int, int]


def norm_layer(channels: int, norm: str) -> nn.Module:
    """BatchNorm with eps 1e-3, or GroupNorm over groups of 8 channels (does not depend on the batch)."""
    if norm == "batch":
        return nn.BatchNorm3d(channels, eps=1e-3, momentum=0.1)
    return nn.GroupNorm(max(channels // 8, 1), channels, eps=1e-3)


@cache
def has_triton() -> bool:
    """Whether Triton is installed; torch brings it for GPUs on Linux."""
    return find_spec("triton") is not None


class Chain(nn.Sequential):
    """``nn.Sequential`` that runs a norm and the ReLU after it as one kernel where it can."""

    def forward(self, x: Tensor) -> Tensor:
        return run_chain(list(self), x)


def run_chain(modules: list[nn.Module], x: Tensor) -> Tensor:
    """Apply ``modules`` to x (B, C, T, H, W), one after the other."""
    i = 0
    while i < len(modules):
        module, after = modules[i], modules[i + 1] if i + 1 < len(modules) else None
        i += 1
        if isinstance(module, Norm) and fits_norm(x, module):
            relu = isinstance(after, nn.ReLU)
            x = fused_norm(x, module, relu)
            i += relu
        elif isinstance(module, nn.MaxPool3d) and usual(module):
            x = max_pool(x, triple(module.kernel_size), triple(module.stride), triple(module.padding))
        else:
            x = module(x)
    return x


def add_shortcut(branch: nn.Sequential, x: Tensor, shortcut: Tensor, relu: nn.Module) -> Tensor:
    """``relu(branch(x) + shortcut)``; the branch's last norm, the sum and the ReLU are one kernel where possible."""
    *first, last = branch
    x = run_chain(first, x)
    if isinstance(last, Norm) and fits_norm(x, last) and shortcut.dtype == x.dtype:
        return fused_norm(x, last, isinstance(relu, nn.ReLU), shortcut)
    out: Tensor = relu(last(x) + shortcut)
    return out


def gated_cat(branches: Sequence[Tensor], linears: Sequence[nn.Linear]) -> Tensor:
    """``gated`` of each branch (B, C_i, T, H, W), concatenated along the channels."""
    if not (all(map(on_gpu, branches)) and len({x.dtype for x in branches}) == 1):
        return torch.cat([gated(x, linear) for x, linear in zip(branches, linears, strict=True)], 1)
    from paramcrop.models import gating

    return gating.gated_cat(branches, linears)


def gated(x: Tensor, linear: nn.Linear) -> Tensor:
    """Scale each channel of x (B, C, T, H, W) by a sigmoid of a linear layer of all channel means."""
    return x * torch.sigmoid(linear(x.mean((2, 3, 4))))[:, :, None, None, None]


def max_pool(x: Tensor, kernel: Size, stride: Size, padding: Size) -> Tensor:
    """``F.max_pool3d``; on a GPU the result is channels last in memory."""
    if not on_gpu(x):
        return F.max_pool3d(x, kernel, stride, padding)
    from paramcrop.models.fused import pool

    return pool(x, kernel, stride, padding)


def fused_norm(x: Tensor, norm: Norm, relu: bool, rest: Tensor | None = None) -> Tensor:
    """``norm(x)``, plus ``rest`` if there is one, then ReLU if asked, in Triton kernels."""
    from paramcrop.models.fused import norm_relu

    return norm_relu(x, norm, relu, rest)


def on_gpu(x: Tensor) -> bool:
    """Whether the kernels can take x; under torch.compile they are not used."""
    return x.is_cuda and x.ndim == 5 and x.dtype in TYPES and has_triton() and not torch.compiler.is_compiling()


def fits_norm(x: Tensor, norm: Norm) -> bool:
    """Whether the kernel can take this norm: it has a backward pass in training mode only."""
    common = norm.affine and norm.track_running_stats and norm.momentum is not None
    learned = torch.is_grad_enabled() and (x.requires_grad or norm.weight.requires_grad)
    several = x.numel() > x.shape[1]  # for one value per channel torch raises an error: it has no variance
    return on_gpu(x) and common and several and (norm.training or not learned)


def usual(pool: nn.MaxPool3d) -> bool:
    """Whether ``max_pool`` covers the options of this layer."""
    return triple(pool.dilation) == (1, 1, 1) and not pool.ceil_mode and not pool.return_indices


def triple(value: int | Size) -> Size:
    return (value, value, value) if isinstance(value, int) else value


class BatchNormOfAllRanks(_BatchNorm):
    """Batch norm that in training uses the mean and variance over all ranks, which must have equally many samples.

    It is for CPUs, on which DDP refuses torch's SyncBatchNorm.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) of this rank -> the same shape."""
        if not self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, self.running_mean is None, 0.0, self.eps
            )
        dims = [0, *range(2, x.ndim)]
        mean = _over_ranks(x.mean(dims))
        centred = x - _across(mean, x)
        variance = _over_ranks(centred.square().mean(dims))
        self._track(mean.detach(), variance.detach(), dist.world_size() * x.numel() // x.shape[1])
        y = centred * _across((variance + self.eps).rsqrt(), x)
        return y if self.weight is None else y * _across(self.weight, x) + _across(self.bias, x)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, n: int) -> None:
        """Move the running averages towards those of a batch with ``n`` values per channel."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (n / max(n - 1, 1)), share)


def share_norms(model: nn.Module) -> None:
    """Replace every batch norm of ``model`` by one over all ranks, with the same parameters and averages."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, BatchNormOfAllRanks):
                setattr(module, name, _shared(child))


def _shared(norm: _BatchNorm) -> BatchNormOfAllRanks:
    made = BatchNormOfAllRanks(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    made._parameters, made._buffers = norm._parameters, norm._buffers
    return made.train(norm.training)


def _over_ranks(x: Tensor) -> Tensor:
    """The mean of x over ranks, with gradient."""
    return dist.gather(x[None]).mean(0)


def _across(x: Tensor, like: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, ...), for ``like`` of shape (B, C, ...)."""
    return x.view(1, -1, *[1] * (like.ndim - 2))
