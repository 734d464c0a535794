"""Batch norm over the samples of all ranks, on CPUs: torch's SyncBatchNorm is for GPUs only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paramcrop import dist


class BatchNormOfAllRanks(_BatchNorm):
    """In training, normalise by the mean and variance over all ranks, which must have equally many samples.

    It is no SyncBatchNorm, which DDP refuses on CPUs.
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
