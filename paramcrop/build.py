"""Config -> the objects it describes. Below this, nothing knows a config."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from paramcrop.backbones.r2d3d import R2D3D
from paramcrop.config import Config
from paramcrop.cropper import ParamCrop, Ranges
from paramcrop.data.clips import ClipSpec
from paramcrop.methods import SimCLR, projector
from paramcrop.optim import cropper_group, make_optimizer, network_groups

# Every policy: (noise, progress) -> both views' CropParams, and telemetry(noise) -> scalars of its own.
Policy: TypeAlias = ParamCrop


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
    )


def build_policy(config: Config) -> Policy:
    c = config.cropper
    return ParamCrop(
        ranges=Ranges(c.spatial_scale, c.temporal_scale, math.radians(c.rotation)),
        bounds=(c.lower, c.upper) if c.early_stopping else None,
        reversal=c.reversal,
        axes=c.axes,
        layers=c.layers,
        noise_size=c.noise_size,
        hidden=c.hidden,
        batch_norm=c.batch_norm,
        noise=c.noise,
        size=view_size(config),
        rounding=c.rounding,
    )


def build_backbone(config: Config) -> R2D3D:
    b = config.backbone
    return R2D3D(b.depth, b.width, b.norm, b.final_relu)


def build_method(config: Config, dtype: torch.dtype) -> nn.Module:
    p, backbone = config.projector, build_backbone(config)
    head = projector(backbone.features, p.hidden, p.size, p.layers, p.batch_norm)
    return SimCLR(backbone, head, config.simclr.temperature, dtype)


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
