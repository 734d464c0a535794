"""The model that is trained: crop policy and framework in one module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from paramcrop import dist
from paramcrop.crops.augment import augment
from paramcrop.crops.geometry import CropParams, box_in_video, centre_distance, crop_box, iou
from paramcrop.crops.policies import Policy
from paramcrop.crops.resample import crop_cube
from paramcrop.data.batch import Batch
from paramcrop.models.interfaces import Method
from paramcrop.settings.config import Config
from paramcrop.training.build import build_method, build_policy, network_dtype, view_size


class TwoViews(nn.Module):
    """Everything that is differentiated, in one module for DDP: crops -> views -> loss.

    Args:
        policy: draws the crops. method: the loss of two views. Their protocols give the shapes.
        size: (frames, height, width) of a view; rounding: Eq. 8's.
        mean, std: applied to the views' pixels in [0, 1].
        noise: the distribution of the policy's noise, "normal" or "uniform" over [-1, 1].
    """

    def __init__(
        self,
        policy: Policy,
        method: Method,
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
        view_1, view_2 = (self.view(batch, i, params) for i, params in enumerate(crops))
        loss, scalars = self.method(view_1, view_2, batch.label, progress)
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


@torch.no_grad()
def crop_scalars(crops: tuple[CropParams, CropParams], batch: Batch) -> dict[str, Tensor]:
    """Batch means of both crops.

    ``crop_distance``, ``crop_iou``: in the croppers' own frame (Figure 5). ``source_distance``, ``source_iou``: the
    crops composed with R_1, R_2 and un-flipped, so in the video (Figures 1b, 8 to 10). ``s_p_1`` ... ``dt_2``: each
    parameter of each view.
    """
    boxes = [crop_box(params) for params in crops]
    sources = [box_in_video(box, batch.cube[:, i], batch.flip[:, i]) for i, box in enumerate(boxes)]
    scalars = {
        "crop_distance": centre_distance(*boxes).mean(),
        "crop_iou": iou(*boxes).mean(),
        "source_distance": centre_distance(*sources).mean(),
        "source_iou": iou(*sources).mean(),
    }
    for i, params in enumerate(crops):
        for name, value in params._asdict().items():
            scalars[f"{name}_{i + 1}"] = torch.zeros_like(params.s_p).mean() if value is None else value.mean()
    return scalars


def stack_params(crops: tuple[CropParams, CropParams]) -> Tensor:
    """Both views' parameters -> (B, 2, 6), in the order of Eq. 5; theta is 0 where nothing rotates."""
    zero = torch.zeros_like(crops[0].s_p)
    return torch.stack([torch.stack([zero if p is None else p for p in params], -1) for params in crops], 1)
