"""The MLP of the croppers (Eq. 5) and of the projector."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(widths: Sequence[int], batch_norm: bool = False, final_batch_norm: bool = False) -> nn.Sequential:
    """Linear layers with bias; ReLU, and before it BN if ``batch_norm``, in between: (B, w_0) -> (B, w_n).

    Args:
        final_batch_norm: BN without weights after the last layer, as in SimCLR's head (Chen et al. 2020).
    """
    modules: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(widths)):
        if i > 0:
            modules += [nn.BatchNorm1d(a), nn.ReLU()] if batch_norm else [nn.ReLU()]
        modules.append(nn.Linear(a, b))
    if final_batch_norm:
        modules.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*modules)
