"""Every combination of framework, backbone and policy trains on encoded videos."""

from __future__ import annotations

import math
from functools import cache
from itertools import product

import pytest
import torch

from paramcrop.data.batch import Batch, to_batch
from paramcrop.data.clips import ClipSpec
from paramcrop.data.manifest import Manifest, read_manifest
from paramcrop.data.samples import epoch_batches
from paramcrop.settings.config import Config
from paramcrop.settings.sections import BACKBONES, POLICIES
from paramcrop.training.build import build_clip_spec, build_optimizer
from paramcrop.training.optim import set_lr
from paramcrop.training.pretrain import train_step
from paramcrop.training.two_views import TwoViews, build_model
from tests.memory import tiny_config

STEPS = 20
WIDTHS = {"r2d3d": "backbone.width=8", "s3dg": "backbone.width=4", "s3d": "backbone.width=4"}
PAIRS = list(product(("simclr", "moco"), BACKBONES, POLICIES))


def pair_config(method: str, backbone: str, policy: str, *overrides: str) -> Config:
    settings = (f"method={method}", f"backbone.name={backbone}", WIDTHS[backbone], f"policy={policy}", "moco.queue=16")
    return tiny_config("backbone.depth=10", "data.random_cube=true", *settings, *overrides)


@cache
def decoded(folder: str, spec: ClipSpec) -> list[Batch]:
    """Twenty batches of eight, decoded once for all combinations with the same clips."""
    batches = (b for epoch in range(4) for b in epoch_batches(folder, read_manifest(folder), spec, 0, epoch, 8))
    return [to_batch(columns) for columns in batches][:STEPS]


def train(config: Config, batches: list[Batch]) -> tuple[TwoViews, list[float]]:
    model = build_model(config, torch.device("cpu"))
    optimizer = build_optimizer(config, model.policy, model.method)
    losses = []
    for step, batch in enumerate(batches):
        set_lr(optimizer, step, STEPS, 2)
        losses.append(train_step(model, batch, optimizer, step / STEPS)[0])
    return model, losses


@pytest.mark.parametrize(("method", "backbone", "policy"), PAIRS)
def test_a_combination_trains(method: str, backbone: str, policy: str, shards: tuple[str, Manifest]) -> None:
    config = pair_config(method, backbone, policy)
    start = {name: p.detach().clone() for name, p in build_model(config, torch.device("cpu")).named_parameters()}
    model, losses = train(config, decoded(shards[0], build_clip_spec(config)))
    assert len(losses) == STEPS and all(map(math.isfinite, losses))
    assert losses[0] < 2 * config.chance_loss()
    assert [name for name, p in model.named_parameters() if torch.equal(p, start[name])] == []


@pytest.mark.parametrize(("method", "backbone"), list(product(("simclr", "moco"), BACKBONES)))
def test_under_lars_everything_has_moved_after_ten_steps(
    method: str, backbone: str, shards: tuple[str, Manifest]
) -> None:
    """If LARS scaled its step, a tensor that starts at zero, such as the bias of a norm, would stay there."""
    config = pair_config(method, backbone, "paramcrop", "optim.name=lars", "optim.lr=1")
    start = {name: p.detach().clone() for name, p in build_model(config, torch.device("cpu")).named_parameters()}
    model, _ = train(config, decoded(shards[0], build_clip_spec(config))[:10])
    assert [name for name, p in model.named_parameters() if torch.equal(p, start[name])] == []
