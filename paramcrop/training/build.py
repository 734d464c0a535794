"""Config -> the objects it describes. Below this, nothing knows a config."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from paramcrop.crops.paramcrop import ParamCrop, Ranges
from paramcrop.crops.policies import Policy, RandomCrops, WholeClip, hard_crops, manual_crops, simple_crops
from paramcrop.data.clips import ClipSpec
from paramcrop.errors import ConfigError
from paramcrop.models.contrastive import MoCo, SimCLR, projector
from paramcrop.models.foreign import OTHERS
from paramcrop.models.interfaces import Backbone, Method
from paramcrop.models.mean_teacher import MeanTeacher
from paramcrop.models.r2d3d import R2D3D
from paramcrop.models.s3d import S3D, s3d
from paramcrop.settings.config import Config
from paramcrop.settings.custom import is_custom
from paramcrop.training.custom import custom_backbone, custom_policy
from paramcrop.training.optim import cropper_group, make_optimizer, network_groups
from paramcrop.training.plateau import Plateau

BACKBONES: Mapping[str, Callable[..., Backbone]] = {"r2d3d": R2D3D, "s3dg": S3D, "s3d": s3d}


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
        decoder=data.decoder,
        cache=data.cache or "",
    )


def build_policy(config: Config) -> Policy:
    """The crop policy; a class of the user's own takes ``policy_kwargs``, the built-in ones what stands here.

    Raises:
        ConfigError: a class of the user's own does not fit.
    """
    if is_custom(config.policy):
        given = config.policy_source, config.policy_kwargs, config.cropper.noise_size
        return custom_policy(config.policy, *given)
    c, p = config.cropper, config.policies
    ranges = Ranges(c.spatial_scale, c.temporal_scale, math.radians(c.rotation))
    makers: dict[str, Callable[[], Policy]] = {
        "paramcrop": lambda: build_croppers(config, ranges),
        "random": lambda: RandomCrops(ranges, axes=c.axes, noise=c.noise),
        "simple": lambda: simple_crops(p.simple, ranges, axes=c.axes, noise=c.noise),
        "hard": lambda: hard_crops(p.hard, ranges, axes=c.axes, noise=c.noise),
        "manual": lambda: manual_crops(p.manual, ranges, axes=c.axes, noise=c.noise),
        "autoaugment": WholeClip,  # its operations are drawn with the clips
        "none": WholeClip,
    }
    return makers[config.policy]()


def build_croppers(config: Config, ranges: Ranges) -> ParamCrop:
    c = config.cropper
    return ParamCrop(
        ranges,
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


def build_backbone(config: Config) -> nn.Module:
    """The video network, a ``Backbone``, of ``backbone_settings``.

    Raises:
        ConfigError: a class of the user's own does not fit.
    """
    return make_backbone(config.backbone.name, backbone_settings(config), config.backbone.source, view_size(config))


def make_backbone(
    name: str, settings: Mapping[str, Any], source: str | None = None, size: tuple[int, int, int] = (16, 112, 112)
) -> nn.Module:
    """One of ``BACKBONES`` or ``OTHERS``, or a class of the user's own.

    Args:
        settings: keyword arguments of its class.
        source, size: of a class of the user's own, see ``custom_backbone``.

    Raises:
        ConfigError: a class of the user's own does not fit.
    """
    if is_custom(name):
        return custom_backbone(name, source, settings, size)
    backbone: Any = {**BACKBONES, **OTHERS}[name](**settings)  # a protocol cannot say that it is an nn.Module as well
    network: nn.Module = backbone
    return network


def features_of(backbone: nn.Module) -> int:
    """Values per clip of a ``Backbone``."""
    features: Any = backbone.features
    return int(features)


def backbone_settings(config: Config) -> dict[str, Any]:
    """What the named backbone is made with."""
    b = config.backbone
    if is_custom(b.name):
        return dict(b.kwargs)
    if b.name == "r2d3d":
        return {"depth": b.depth, "width": b.width, "norm": b.norm, "final_relu": b.final_relu}
    return {"width": b.width, "norm": b.norm}


def build_method(
    config: Config, dtype: torch.dtype, classes: Sequence[str] = (), epochs: float | None = None
) -> Method:
    """Args:
    classes: names of the videos' classes; only method=mean_teacher learns them.
    epochs: those that are run, fewer than ``train.epochs`` where ``train.max_steps`` ends it; None: all.
    """
    p, m, backbone = config.projector, config.moco, build_backbone(config)
    if config.method == "mean_teacher":
        return build_mean_teacher(config, backbone, classes, dtype, epochs or config.train.epochs)
    head = projector(features_of(backbone), p.hidden, p.size, p.layers, p.batch_norm, p.final_batch_norm)
    if config.method == "simclr":
        return SimCLR(backbone, head, temperature=config.simclr.temperature, dtype=dtype)
    return MoCo(
        backbone,
        head,
        queue=m.queue,
        size=p.size,
        momentum=m.momentum,
        temperature=m.temperature,
        key_crop_grad=m.key_crop_grad,
        dtype=dtype,
    )


def build_mean_teacher(
    config: Config, backbone: nn.Module, classes: Sequence[str], dtype: torch.dtype, epochs: float
) -> MeanTeacher:
    m = config.mean_teacher
    if len(classes) < 2:
        raise ConfigError(f"method=mean_teacher needs videos of two classes or more, but there are {len(classes)}")
    return MeanTeacher(
        backbone,
        nn.Linear(features_of(backbone), len(classes)),
        classes,
        momentum=m.momentum,
        weight=m.weight,
        ramp=m.ramp_up_epochs / epochs,
        consistency=m.consistency,
        dtype=dtype,
    )


def build_optimizer(config: Config, policy: Policy, method: Method) -> Optimizer:
    o, c = config.optim, config.cropper
    groups = network_groups([method], config.effective_lr, o.momentum, o.weight_decay, o.clip_norm)
    adapt = c.optimizer == "lars"
    groups += cropper_group(policy, c.lr, c.momentum, c.weight_decay, c.schedule, adapt, c.clip_norm)
    return make_optimizer(groups, o.name, o.trust)


def build_plateau(config: Config, classes: int) -> Plateau:
    """How a run is judged that does not learn, and what it can try: see ``docs/numbers/learning.md``."""
    jitter, tries = 0.4, [f"optim.lr={4 * config.optim.lr:g}"]
    if config.method != "mean_teacher":
        norms = {"batch_norm": config.projector.batch_norm, "final_batch_norm": config.projector.final_batch_norm}
        tries = [*(f"projector.{name}=true" for name, there in norms.items() if not there), *tries]
    if config.augment.jitter > jitter:
        tries.append(f"augment.jitter={jitter:g}")
    loss = {"simclr": "loss", "mean_teacher": "supervised"}.get(config.method)
    full = config.moco.queue // config.train.global_batch if config.method == "moco" else 0
    return Plateau(config.chance_loss(classes), loss, full, ", ".join(tries))


def view_size(config: Config) -> tuple[int, int, int]:
    return config.cropper.frames, config.cropper.size, config.cropper.size


def network_dtype(config: Config, device: torch.device) -> torch.dtype:
    """bfloat16 under autocast on GPUs, float32 elsewhere, unless the config says which."""
    precision = config.precision if config.precision != "auto" else {"cuda": "bfloat16"}.get(device.type, "float32")
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
