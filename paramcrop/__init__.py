"""ParamCrop: parametric cubic cropping for video contrastive learning, in plain PyTorch.

Your own training loop only needs ``from paramcrop import ParamCrop``. Names are loaded on first use, so
``import paramcrop`` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paramcrop.crops.geometry import CropParams
    from paramcrop.crops.paramcrop import ParamCrop, Ranges
    from paramcrop.crops.policies import (
        DistanceCrops,
        Policy,
        RandomCrops,
        WholeClip,
        hard_crops,
        manual_crops,
        simple_crops,
    )
    from paramcrop.crops.resample import crop_cube
    from paramcrop.export.encoder import Encoder
    from paramcrop.export.features import Features
    from paramcrop.export.load import load
    from paramcrop.models.contrastive import MoCo, SimCLR
    from paramcrop.models.interfaces import Backbone, Method
    from paramcrop.models.losses import info_nce, nt_xent
    from paramcrop.models.r2d3d import R2D3D
    from paramcrop.models.s3d import S3D
    from paramcrop.settings.config import Config
    from paramcrop.settings.presets import load_config
    from paramcrop.training.pretrain import pretrain

__version__ = "0.1.0"

_ROOMS = {
    "paramcrop.crops.geometry": ("CropParams",),
    "paramcrop.crops.paramcrop": ("ParamCrop", "Ranges"),
    "paramcrop.crops.policies": (
        "DistanceCrops",
        "Policy",
        "RandomCrops",
        "WholeClip",
        "hard_crops",
        "manual_crops",
        "simple_crops",
    ),
    "paramcrop.crops.resample": ("crop_cube",),
    "paramcrop.export.encoder": ("Encoder",),
    "paramcrop.export.features": ("Features",),
    "paramcrop.export.load": ("load",),
    "paramcrop.models.contrastive": ("MoCo", "SimCLR"),
    "paramcrop.models.interfaces": ("Backbone", "Method"),
    "paramcrop.models.losses": ("info_nce", "nt_xent"),
    "paramcrop.models.r2d3d": ("R2D3D",),
    "paramcrop.models.s3d": ("S3D",),
    "paramcrop.settings.config": ("Config",),
    "paramcrop.settings.presets": ("load_config",),
    "paramcrop.training.pretrain": ("pretrain",),
}
_HOMES = {name: module for module, names in _ROOMS.items() for name in names}

__all__ = [
    "R2D3D",
    "S3D",
    "Backbone",
    "Config",
    "CropParams",
    "DistanceCrops",
    "Encoder",
    "Features",
    "Method",
    "MoCo",
    "ParamCrop",
    "Policy",
    "RandomCrops",
    "Ranges",
    "SimCLR",
    "WholeClip",
    "crop_cube",
    "hard_crops",
    "info_nce",
    "load",
    "load_config",
    "manual_crops",
    "nt_xent",
    "pretrain",
    "simple_crops",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'paramcrop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
