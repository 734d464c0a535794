"""The normalisation layers of all backbones."""

from __future__ import annotations

from torch import nn

NORMS = ("batch", "group")


def norm_layer(channels: int, norm: str) -> nn.Module:
    """BatchNorm with eps 1e-3, or GroupNorm over groups of 8 channels (does not depend on the batch)."""
    if norm == "batch":
        return nn.BatchNorm3d(channels, eps=1e-3, momentum=0.1)
    return nn.GroupNorm(max(channels // 8, 1), channels, eps=1e-3)
