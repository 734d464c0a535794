"""ParamCrop: parametric cubic cropping for video contrastive learning, in plain PyTorch.

``from paramcrop import ParamCrop`` is all that a training loop of one's own needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paramcrop.crop import crop_cube
    from paramcrop.cropper import ParamCrop, Ranges
    from paramcrop.geometry import CropParams
    from paramcrop.losses import nt_xent

__version__ = "0.1.0"
__all__ = ["CropParams", "ParamCrop", "Ranges", "crop_cube", "nt_xent"]

_HOMES = {
    "ParamCrop": "cropper",
    "Ranges": "cropper",
    "CropParams": "geometry",
    "crop_cube": "crop",
    "nt_xent": "losses",
}


def __getattr__(name: str) -> Any:  # late, so that reading a config or a run's records does not import torch
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"paramcrop.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'paramcrop' has no attribute {name!r}")
