"""The model that is trained: crop policy and framework in one module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from paramcrop import dist
from paramcrop.crops.augment import augment
from paramcrop.crops.geometry import CropParams
from paramcrop.crops.resample import crop_cube
from paramcrop.data.batch import Batch
from paramcrop.settings.config import Config
from paramcrop.training.build import Policy, build_method, build_policy, network_dtype, view_size
from paramcrop.training.telemetry import crop_scalars


class TwoViews(nn.Module):
    """Everything that is differentiated, in one module for DDP: crops -> views -> loss.

    Args:
        policy: (noise (B, 2, m), progress) -> the CropParams of both views.
        method: (view_1, view_2, label, progress) -> (loss, scalars).
        size: (frames, height, width) of a view; rounding: Eq. 8's.
        mean, std: applied to the views' pixels in [0, 1].
        noise: the distribution of the policy's noise, "normal" or "uniform" over [-1, 1].
    """

    def __init__(
        self,
        policy: Policy,
        method: nn.Module,
        size: tuple[int, int, int],
        rounding: str,
        mean: float,
        std: float,
        noise: str,
    ) -> None:
        super().__init__()
        self.policy, self.method, self.noise = policy, method, noise
        self.size, self.rounding, self.mean, self.std = size, rounding, mean, std

    def forward(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """-> this rank's loss, and scalars of the loss and of the crops."""
        crops = self.policy(batch.noise, progress)
        views = (self.view(batch, i, params) for i, params in enumerate(crops))
        loss, scalars = self.method(*views, batch.label, progress)
        return loss, scalars | crop_scalars(crops, batch) | self.policy.telemetry(batch.noise)

    def view(self, batch: Batch, i: int, params: CropParams) -> Tensor:
        """View i as the network sees it: float32 (B, 3, *size)."""
        drawn = batch.augmentation(i)
        view = crop_cube(batch.clip(i), params, self.size, lambda frames: augment(frames, drawn), self.rounding)
        return (view - self.mean) / self.std


def build_model(config: Config, device: torch.device, classes: Sequence[str] = ()) -> TwoViews:
    """The model of a config, its weights a function of ``config.seed`` alone, on ``device``; see ``build_method``."""
    torch.manual_seed(config.seed)
    policy, method = build_policy(config), build_method(config, network_dtype(config, device), classes)
    a, c = config.augment, config.cropper
    return TwoViews(policy, method, view_size(config), c.rounding, a.mean, a.std, c.noise).to(device)


def distribute(model: TwoViews, device: torch.device) -> nn.Module:
    """Wrap for several processes, if there are: DDP, with SyncBatchNorm on GPUs (torch's raises on the CPU)."""
    if dist.world_size() == 1:
        return model
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # in place: its layers are replaced
    # device_ids unset: it would move the batch, and jitter is read on the CPU. Buffers stay where they
    # are: MoCo's queue is equal on all ranks by itself, and running statistics are of use to the saved rank 0 alone.
    return DistributedDataParallel(model, broadcast_buffers=False)
