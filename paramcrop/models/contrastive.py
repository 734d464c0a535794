"""Contrastive frameworks: two views -> loss. The training loop calls ``forward`` and knows no more of them.

Labels and the share of training done are part of every framework's signature, of no use to these.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramcrop import dist
from paramcrop.models.losses import info_nce, nt_xent
from paramcrop.models.mlp import mlp


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

    def forward(
        self, view_1: Tensor, view_2: Tensor, label: Tensor | None = None, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Two views (B, 3, T, H, W) of the same videos -> this rank's loss and its scalars.

        Both views pass the network as one batch, so that batch statistics are of both.
        """
        views = torch.cat([view_1, view_2])
        with torch.autocast(views.device.type, self.dtype, enabled=self.dtype != torch.float32):
            z_1, z_2 = self.head(self.backbone(views)).chunk(2)
        return nt_xent(z_1, z_2, self.temperature)


class MoCo(nn.Module):
    """MoCo: the network's queries against the keys of a slowly following copy of it, and a queue of earlier keys.

    The copy's weights take no gradient, but its input does (``key_crop_grad``), so that both croppers move.

    Args:
        backbone, head, dtype: as SimCLR's.
        temperature: of the loss. momentum: of the copy, w_k <- momentum x w_k + (1 - momentum) x w_q, before each step.
        queue: keys kept; a multiple of the global batch, so that it always holds whole batches.
        key_crop_grad: let the loss reach the crop of the key's view (the paper does not say).
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        queue: int = 16384,
        size: int = 128,
        momentum: float = 0.999,
        temperature: float = 0.1,
        key_crop_grad: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.dtype = backbone, head, dtype
        self.momentum, self.temperature, self.key_crop_grad = momentum, temperature, key_crop_grad
        self.key_backbone, self.key_head = copy.deepcopy(backbone), copy.deepcopy(head)
        for p in [*self.key_backbone.parameters(), *self.key_head.parameters()]:
            p.requires_grad_(False)
        self.queue: Tensor
        self.place: Tensor
        self.register_buffer("queue", F.normalize(torch.randn(queue, size), dim=1))  # until keys replace them
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))  # where the next batch of keys goes

    def forward(
        self, view_1: Tensor, view_2: Tensor, label: Tensor | None = None, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Two views (B, 3, T, H, W) of the same videos -> this rank's loss and its scalars."""
        self.follow()
        view_2 = view_2 if self.key_crop_grad else view_2.detach()
        with torch.autocast(view_1.device.type, self.dtype, enabled=self.dtype != torch.float32):
            query, key = self.head(self.backbone(view_1)), self.key_head(self.key_backbone(view_2))
        loss, scalars = info_nce(query, key, self.queue.clone(), self.temperature)  # the graph keeps its queue
        self.enqueue(F.normalize(key.detach().float(), dim=1))
        return loss, scalars

    @torch.no_grad()
    def follow(self) -> None:
        """Move the copy towards the network."""
        for mine, key in ((self.backbone, self.key_backbone), (self.head, self.key_head)):
            for p, p_key in zip(mine.parameters(), key.parameters(), strict=True):
                p_key.lerp_(p, 1 - self.momentum)

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put every rank's keys (B, D) in the place of the oldest."""
        keys = dist.gather(keys)
        rows = self.place + torch.arange(len(keys), device=keys.device)  # no number is read: a GPU is not waited for
        self.queue[rows % len(self.queue)] = keys
        self.place.copy_((self.place + len(keys)) % len(self.queue))
