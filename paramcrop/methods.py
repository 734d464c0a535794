"""Frameworks: two views -> loss. The training loop calls ``forward(view_1, view_2)`` and knows no more of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paramcrop.losses import nt_xent
from paramcrop.mlp import mlp


def projector(
    features: int, hidden: int = 1024, size: int = 128, layers: int = 2, batch_norm: bool = False
) -> nn.Sequential:
    """MLP head: (B, features) -> (B, size), ReLU (after BN, if asked) between ``layers`` linear layers with bias."""
    return mlp([features, *[hidden] * (layers - 1), size], batch_norm)


class SimCLR(nn.Module):
    """SimCLR: one network for both views, NT-Xent between them (Eq. 1 and 2).

    Args:
        backbone: (B, 3, T, H, W) -> (B, D) features.
        head: (B, D) -> (B, d) embeddings; thrown away after pretraining.
        temperature: of the loss.
        dtype: of the backbone and head under autocast; float32: no autocast.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, temperature: float = 0.1, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.temperature, self.dtype = backbone, head, temperature, dtype

    def forward(self, view_1: Tensor, view_2: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Two views (B, 3, T, H, W) of the same videos -> this rank's loss and its scalars.

        Both views pass the network as one batch, so that batch statistics are of both.
        """
        views = torch.cat([view_1, view_2])
        with torch.autocast(views.device.type, self.dtype, enabled=self.dtype != torch.float32):
            z_1, z_2 = self.head(self.backbone(views)).chunk(2)
        return nt_xent(z_1, z_2, self.temperature)
