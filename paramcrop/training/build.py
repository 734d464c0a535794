"""Config -> the objects it describes. Below this, nothing knows a config."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import signature
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from paramcrop.crops.paramcrop import ParamCrop, Ranges
from paramcrop.crops.policies import DistanceCrops, RandomCrops, WholeClip
from paramcrop.data.clips import ClipSpec
from paramcrop.errors import ConfigError
from paramcrop.models.contrastive import MoCo, SimCLR, projector
from paramcrop.models.mean_teacher import MeanTeacher
from paramcrop.models.r2d3d import R2D3D
from paramcrop.models.s3d import S3D
from paramcrop.settings.config import Config
from paramcrop.settings.sections import BACKBONES, POLICIES
from paramcrop.training.optim import cropper_group, make_optimizer, network_groups

# Every policy: (noise, progress) -> both views' CropParams, and telemetry(noise) -> scalars of its own.
Policy: TypeAlias = ParamCrop | RandomCrops | DistanceCrops | WholeClip
# Every backbone: (B, 3, T, H, W) -> (B, features), and trunk, the same before its mean over time and space.
Backbone: TypeAlias = R2D3D | S3D


def build_clip_spec(config: Config) -> ClipSpec:
    data, augment, cropper = config.data, config.augment, config.cropper
    return ClipSpec(
        frames=data.clip_frames,
        stride=data.frame_stride,
        size=data.clip_size,
        random_cube=data.random_cube,
        random_box=data.random_box,
        share_window=cropper.axes == "spatial",  # Table 13: the same 16 frames in both views
        flip=augment.flip,
        jitter=augment.jitter,
        brightness=augment.brightness,
        contrast=augment.contrast,
        saturation=augment.saturation,
        hue=augment.hue,
        noise_size=cropper.noise_size,
        noise=cropper.noise,
        autoaugment=config.policies.autoaugment if config.policy == "autoaugment" else None,
    )


def build_policy(config: Config) -> Policy:
    c, p = config.cropper, config.policies
    values = {
        "ranges": Ranges(c.spatial_scale, c.temporal_scale, math.radians(c.rotation)),
        "bounds": (c.lower, c.upper) if c.early_stopping else None,
        "size": view_size(config),
        **{name: getattr(c, name) for name in ("reversal", "axes", "layers", "noise_size", "hidden", "batch_norm")},
        **{name: getattr(c, name) for name in ("noise", "rounding")},
        **{name: getattr(p, name) for name in ("simple", "hard", "manual")},
    }
    policy: Policy = make(POLICIES[config.policy], values)
    return policy


def build_backbone(config: Config) -> Backbone:
    backbone: Backbone = make(BACKBONES[config.backbone.name], backbone_settings(config))
    return backbone


def backbone_settings(config: Config) -> dict[str, Any]:
    """The settings under ``backbone`` that the named one has parameters for."""
    return taken(BACKBONES[config.backbone.name], config.backbone.model_dump(exclude={"name"}))


def make(place: str, values: dict[str, Any]) -> Any:
    """Call ``place`` (module:maker) with those of ``values`` that it has parameters for."""
    return maker(place)(**taken(place, values))


def taken(place: str, values: dict[str, Any]) -> dict[str, Any]:
    parameters = signature(maker(place)).parameters
    return {name: value for name, value in values.items() if name in parameters}


def maker(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def build_method(config: Config, dtype: torch.dtype, classes: Sequence[str] = ()) -> nn.Module:
    """Args:
    classes: names of the videos' classes; only method=mean_teacher learns them.
    """
    p, m, backbone = config.projector, config.moco, build_backbone(config)
    if config.method == "mean_teacher":
        return build_mean_teacher(config, backbone, classes, dtype)
    head = projector(backbone.features, p.hidden, p.size, p.layers, p.batch_norm)
    makers: dict[str, Callable[[], nn.Module]] = {
        "simclr": lambda: SimCLR(backbone, head, config.simclr.temperature, dtype),
        "moco": lambda: MoCo(backbone, head, m.queue, p.size, m.momentum, m.temperature, m.key_crop_grad, dtype),
    }
    return makers[config.method]()


def build_mean_teacher(config: Config, backbone: Backbone, classes: Sequence[str], dtype: torch.dtype) -> MeanTeacher:
    m, ramp = config.mean_teacher, config.mean_teacher.ramp_up_epochs / config.train.epochs
    if len(classes) < 2:
        raise ConfigError(f"method=mean_teacher needs videos of two classes or more, but there are {len(classes)}")
    head = nn.Linear(backbone.features, len(classes))
    return MeanTeacher(backbone, head, classes, m.momentum, m.weight, ramp, m.consistency, dtype)


def build_optimizer(config: Config, policy: Policy, method: nn.Module) -> Optimizer:
    o, c = config.optim, config.cropper
    groups = network_groups([method], config.effective_lr, o.momentum, o.weight_decay)
    groups += cropper_group(policy, c.lr, c.momentum, c.weight_decay, c.schedule, c.optimizer == "lars")
    return make_optimizer(groups, o.name, o.trust)


def view_size(config: Config) -> tuple[int, int, int]:
    return config.cropper.frames, config.cropper.size, config.cropper.size


def network_dtype(config: Config, device: torch.device) -> torch.dtype:
    """bfloat16 under autocast on GPUs, float32 elsewhere, unless the config says which."""
    if config.train.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if config.train.precision == "bfloat16" else torch.float32
