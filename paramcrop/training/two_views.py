"""The trained model: crop policy and framework in one module."""

from __future__ import annotations

import os
from collections.abc import Sequence
from shutil import which

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from paramcrop import dist
from paramcrop.crops.geometry import CropParams, box_in_video, centre_distance, crop_box, iou
from paramcrop.crops.paramcrop import ParamCrop
from paramcrop.crops.policies import Policy, RandomCrops, WholeClip
from paramcrop.crops.views import augmented_view
from paramcrop.data.batch import Batch
from paramcrop.errors import ConfigError
from paramcrop.models.contrastive import MoCo, SimCLR
from paramcrop.models.interfaces import Method
from paramcrop.models.layers import share_norms
from paramcrop.models.r2d3d import R2D3D
from paramcrop.models.s3d import S3D
from paramcrop.settings.config import Config
from paramcrop.training.build import build_method, build_policy, network_dtype, view_size


class TwoViews(nn.Module):
    """Everything that is differentiated, in one module for DDP: crops -> views -> loss.

    Args:
        policy: predicts or draws the crops; see its protocol.
        method: computes the loss of two views; see its protocol.
        size: (frames, height, width) of a view.
        rounding: rounding of Eq. 8, "round" or "floor".
        mean, std: normalisation of the views' pixels, which are in [0, 1].
        noise: distribution of the policy's noise, "normal" or "uniform" over [-1, 1].
        dtype: type in which GPUs compute the views: that of the network.
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
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.policy, self.method, self.noise, self.dtype = policy, method, noise, dtype
        self.size, self.rounding, self.mean, self.std = size, rounding, mean, std

    @property
    def recordable(self) -> bool:
        """Whether every step launches the same kernels, whatever its batch and progress; see ``Recorded``."""
        return (
            isinstance(self.policy, ParamCrop | RandomCrops | WholeClip)
            and isinstance(self.method, SimCLR | MoCo)
            and isinstance(self.method.backbone, S3D | R2D3D)
        )

    def forward(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch -> loss of this rank, and scalars of the loss and of the crops."""
        crops = self.policy(batch.noise, progress)
        view_1, view_2 = (self.view(batch, i, params) for i, params in enumerate(crops))
        loss, scalars = self.method(view_1, view_2, batch.label, progress)
        return loss, scalars | crop_scalars(crops, batch) | self.policy.telemetry(batch.noise)

    def view(self, batch: Batch, i: int, params: CropParams) -> Tensor:
        """View i as the input of the network: (B, 3, *size), float32 on CPUs."""
        given = batch.clip(i), params, self.size, batch.augmentation(i)
        return augmented_view(*given, self.rounding, self.mean, self.std, self.dtype)


def build_model(
    config: Config, device: torch.device, classes: Sequence[str] = (), epochs: float | None = None
) -> TwoViews:
    """The model of a config on ``device``; its initial weights depend only on ``config.seed``. See ``build_method``."""
    torch.manual_seed(config.seed)
    dtype = network_dtype(config, device)
    policy, method = build_policy(config), build_method(config, dtype, classes, epochs)
    a, c = config.augment, config.cropper
    model = TwoViews(policy, method, view_size(config), c.rounding, a.mean, a.std, c.noise, dtype).to(device)
    return model.to(memory_format=torch.channels_last_3d) if device.type == "cuda" else model


def compile_network(method: Method, device: torch.device) -> None:
    """Let ``torch.compile`` make the code of the method's networks, the backbone and its copies, at the first step.

    Raises:
        ConfigError: it needs a C++ compiler on CPUs, and there is none.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and which(compiler) is None:
        raise ConfigError(f"train.compile=true needs a C++ compiler, but there is no {compiler}; install it or set CXX")
    assert isinstance(method, nn.Module)  # a protocol cannot say so
    for name, network in method.named_children():
        if name.endswith("backbone"):
            network.compile(dynamic=False)  # in place, so that names in checkpoints stay


def distribute(model: TwoViews, device: torch.device, shared: bool = False) -> nn.Module:
    """Wrap the model in DDP if there are several ranks, with batch norms over all of them on GPUs, or if ``shared``."""
    if dist.world_size() == 1:
        return model
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # replaces the layers in place
    elif shared:
        share_norms(model)
    # Without device_ids: the batch is on the device already. No broadcast of buffers: MoCo's queue is equal on all
    # ranks anyway, and running statistics are only read from rank 0, which is saved.
    return DistributedDataParallel(model, broadcast_buffers=False)


@torch.no_grad()
def crop_scalars(crops: tuple[CropParams, CropParams], batch: Batch) -> dict[str, Tensor]:
    """Means of both crops over the batch.

    - ``crop_distance``, ``crop_iou``: in the clips that the crops are taken from (Figure 5).
    - ``source_distance``, ``source_iou``: in the video, that is, composed with R_1 and R_2 and with the flip undone
      (Figures 1b, 8 to 10).
    - ``s_p_1`` ... ``dt_2``: each parameter of each view.
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
    """The parameters of both views -> (B, 2, 6), in the order of Eq. 5; theta is 0 without rotation."""
    zero = torch.zeros_like(crops[0].s_p)
    return torch.stack([torch.stack([zero if p is None else p for p in params], -1) for params in crops], 1)
