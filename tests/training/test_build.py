"""Settings reach the objects they are about."""

from __future__ import annotations

import math

import pytest
import torch

from paramcrop.crops.paramcrop import ParamCrop
from paramcrop.data.clips import ClipSpec
from paramcrop.settings.presets import load_config
from paramcrop.training.build import build_clip_spec, build_method, build_optimizer, build_policy, network_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_the_papers_settings_are_the_objects_own_defaults() -> None:
    config = load_config()
    assert build_clip_spec(config) == ClipSpec()
    policy = build_policy(config)
    assert isinstance(policy, ParamCrop)
    assert (policy.ranges.s_p, policy.ranges.s_t, policy.ranges.theta) == ((0.5, 1.0), (0.5, 1.0), 0.0)
    assert (policy.bounds, policy.reversal, policy.axes, policy.size) == ((0.2, 0.8), True, "both", (16, 112, 112))
    assert sum(p.numel() for p in policy.parameters()) == 5_004


def test_every_ablation_of_the_cropper_reaches_it() -> None:
    overrides = ["cropper.rotation=30", "cropper.early_stopping=false", "cropper.reversal=false", "cropper.layers=1"]
    overrides += ["cropper.spatial_scale=[0.3,0.9]", "cropper.temporal_scale=[0.4,0.8]", "cropper.rounding=floor"]
    policy = build_policy(load_config(None, None, overrides))
    assert isinstance(policy, ParamCrop)
    assert policy.ranges.theta == pytest.approx(math.pi / 6)
    assert (policy.ranges.s_p, policy.ranges.s_t) == ((0.3, 0.9), (0.4, 0.8))
    assert (policy.bounds, policy.reversal, policy.rounding) == (None, False, "floor")
    assert sum(p.numel() for p in policy.parameters()) == 396


def test_the_spatial_crop_alone_shows_both_views_the_same_frames() -> None:
    assert build_clip_spec(load_config(None, None, ["cropper.axes=spatial"])).share_window
    assert not build_clip_spec(load_config(None, None, ["cropper.axes=temporal"])).share_window


def test_network_and_croppers_have_their_own_rates() -> None:
    config = load_config("demo", None, ["optim.name=lars", "cropper.lr=0.01", "cropper.optimizer=lars"])
    policy, method = build_policy(config), build_method(config, torch.float32)
    groups = build_optimizer(config, policy, method).param_groups
    assert [(g["network"], g["adapt"], g["peak_lr"]) for g in groups] == [
        (True, True, 0.05),
        (True, False, 0.05),
        (False, True, 0.01),
    ]
    assert set(groups[2]["params"]) == set(policy.parameters())
    assert {p for g in groups[:2] for p in g["params"]} == set(method.parameters())


@pytest.mark.parametrize(
    ("precision", "device", "dtype"),
    [
        ("auto", CPU, torch.float32),
        ("auto", GPU, torch.bfloat16),
        ("float32", GPU, torch.float32),
        ("bfloat16", CPU, torch.bfloat16),
    ],
)
def test_precision(precision: str, device: torch.device, dtype: torch.dtype) -> None:
    assert network_dtype(load_config(None, None, [f"train.precision={precision}"]), device) == dtype
