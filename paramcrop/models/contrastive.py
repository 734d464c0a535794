"""Contrastive frameworks: two views -> loss. The training loop only calls ``forward``.

The signature of every framework has ``label`` and ``progress``; these two frameworks ignore them.
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
    features: int,
    hidden: int = 1024,
    size: int = 128,
    layers: int = 2,
    batch_norm: bool = False,
    final_batch_norm: bool = False,
) -> nn.Sequential:
    """MLP head: (B, features) -> (B, size), ``layers`` linear layers; see ``mlp``."""
    return mlp([features, *[hidden] * (layers - 1), size], batch_norm, final_batch_norm)


class SimCLR(nn.Module):
    """SimCLR: one network for both views and the NT-Xent loss (Eq. 1 and 2).

    Args:
        backbone: (B, 3, T, H, W) -> (B, D) features.
        head: (B, D) -> (B, d) embeddings; not used after pretraining.
        temperature: temperature of the loss.
        dtype: autocast type of backbone and head; float32: no autocast.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, temperature: float = 0.1, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.temperature, self.dtype = backbone, head, temperature, dtype

    def forward(
        self, view_1: Tensor, view_2: Tensor, label: Tensor | None = None, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Two views (B, 3, T, H, W) of the same videos -> loss of this rank and scalars to log.

        Both views go through the network as one batch, so the statistics of batch norm cover both.
        """
        views = torch.cat([view_1, view_2])
        with torch.autocast(views.device.type, self.dtype, enabled=self.dtype != torch.float32):
            z_1, z_2 = self.head(self.backbone(views)).chunk(2)
        return nt_xent(z_1, z_2, self.temperature)


class MoCo(nn.Module):
    """MoCo: queries of the network, keys of a momentum encoder, and a queue of earlier keys.

    The momentum encoder's weights take no gradient, but its input does (``key_crop_grad``), so both croppers learn.

    Args:
        backbone, head, dtype: as in ``SimCLR``.
        queue: number of keys; a multiple of the global batch, so that the queue always holds complete batches.
        size: size of an embedding.
        momentum: of the momentum encoder, w_k <- momentum x w_k + (1 - momentum) x w_q, before each step.
        temperature: temperature of the loss.
        key_crop_grad: pass the gradient of the loss to the crop of the key's view (the paper does not state it).
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
        self.register_buffer("queue", F.normalize(torch.randn(queue, size), dim=1))  # random until keys replace it
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))  # row of the oldest key, the next to replace

    def forward(
        self, view_1: Tensor, view_2: Tensor, label: Tensor | None = None, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Two views (B, 3, T, H, W) of the same videos -> loss of this rank and scalars to log."""
        self.update_key_encoder()
        view_2 = view_2 if self.key_crop_grad else view_2.detach()
        with torch.autocast(view_1.device.type, self.dtype, enabled=self.dtype != torch.float32):
            query, key = self.head(self.backbone(view_1)), self.key_head(self.key_backbone(view_2))
        # A copy of the queue: the backward pass needs the one of this step, and enqueue() overwrites it in place.
        loss, scalars = info_nce(query, key, self.queue.clone(), self.temperature)
        # After the loss, so that a query never meets its own key as a negative.
        self.enqueue(F.normalize(key.detach().float(), dim=1))
        return loss, scalars

    @torch.no_grad()
    def update_key_encoder(self) -> None:
        """Move the momentum encoder towards the network."""
        for mine, key in ((self.backbone, self.key_backbone), (self.head, self.key_head)):
            torch._foreach_lerp_([*key.parameters()], [*mine.parameters()], 1 - self.momentum)

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys by those of all ranks, (B, D) each; the queue stays equal on all ranks."""
        keys = dist.gather(keys)
        # ``place`` stays a tensor: reading its value would make the CPU wait for the GPU.
        rows = self.place + torch.arange(len(keys), device=keys.device)
        self.queue[rows % len(self.queue)] = keys
        self.place.copy_((self.place + len(keys)) % len(self.queue))
