"""Which settings a run never reads. They cannot change its result, so they are not part of its id."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from paramcrop.settings.config import Config
from paramcrop.settings.custom import is_custom

Reads = Callable[[Config], bool]


def _croppers(config: Config) -> bool:
    return config.policy == "paramcrop"


def _learns(config: Config) -> bool:
    return _croppers(config) or is_custom(config.policy)


def _draws(config: Config) -> bool:
    """Whether a built-in policy chooses crops within the scale ranges."""
    return config.policy not in ("none", "autoaugment") and not is_custom(config.policy)


def _projects(config: Config) -> bool:
    return config.method != "mean_teacher"


# A setting, or all of a section's ("moco."), to whether a run reads it. A setting is read if all its lines say so;
# one without a line is read by every run.
READ_BY: Mapping[str, Reads] = {
    "simclr.": lambda c: c.method == "simclr",
    "moco.": lambda c: c.method == "moco",
    "moco.key_crop_grad": _learns,
    "mean_teacher.": lambda c: c.method == "mean_teacher",
    "data.labels": lambda c: c.method == "mean_teacher",
    "data.random_box": lambda c: c.data.random_cube,
    "projector.": _projects,
    "projector.hidden": lambda c: c.projector.layers > 1,
    "projector.batch_norm": lambda c: c.projector.layers > 1,
    "policies.simple": lambda c: c.policy == "simple",
    "policies.hard": lambda c: c.policy == "hard",
    "policies.manual": lambda c: c.policy == "manual",
    "policies.autoaugment": lambda c: c.policy == "autoaugment",
    "cropper.spatial_scale": lambda c: _draws(c) and c.cropper.axes != "temporal",
    "cropper.temporal_scale": lambda c: _draws(c) and c.cropper.axes != "spatial",
    "cropper.rotation": _draws,
    **dict.fromkeys(("cropper.noise", "cropper.noise_size"), lambda c: _draws(c) or is_custom(c.policy)),
    **dict.fromkeys(("cropper.reversal", "cropper.early_stopping", "cropper.layers"), _croppers),
    **dict.fromkeys(("cropper.hidden", "cropper.batch_norm"), lambda c: _croppers(c) and c.cropper.layers > 1),
    **dict.fromkeys(("cropper.lower", "cropper.upper"), lambda c: _croppers(c) and c.cropper.early_stopping),
    **dict.fromkeys(
        (
            *("cropper.optimizer", "cropper.lr", "cropper.momentum"),
            *("cropper.weight_decay", "cropper.clip_norm", "cropper.schedule"),
        ),
        _learns,
    ),
    **dict.fromkeys(("backbone.depth", "backbone.final_relu"), lambda c: c.backbone.name == "r2d3d"),
    **dict.fromkeys(("backbone.width", "backbone.norm"), lambda c: not is_custom(c.backbone.name)),
    **dict.fromkeys(
        ("augment.brightness", "augment.contrast", "augment.saturation", "augment.hue"), lambda c: c.augment.jitter > 0
    ),
    "optim.trust": lambda c: c.optim.name == "lars",
}


def is_read(config: Config, key: str) -> bool:
    """Whether a run of ``config`` reads the setting with this dotted key."""
    section = key.partition(".")[0] + "."
    return all(READ_BY[name](config) for name in (section, key) if name in READ_BY)
