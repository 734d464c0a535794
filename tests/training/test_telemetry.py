from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paramcrop import dist
from paramcrop.data.batch import shard_batch
from paramcrop.data.synthetic import CLASSES
from paramcrop.errors import DataError
from paramcrop.settings.config import Config
from paramcrop.storage.jsonl import read_lines
from paramcrop.training.build import build_clip_spec, build_optimizer
from paramcrop.training.optim import set_lr
from paramcrop.training.pretrain import pretrain, train_step
from paramcrop.training.recorder import Recorder
from paramcrop.training.telemetry import Probe, Telemetry
from paramcrop.training.two_views import TwoViews, build_model
from tests.memory import MetricsInMemory, made_clips, memory_batches, on_two_ranks, tiny_config

CPU = torch.device("cpu")
NAMES = {"rank", "embedding_std", "alignment", "uniformity", "similarity_gap", "grad_norm", "grad_norm_cropper"}
METHODS = ("method=simclr", "method=moco", "method=mean_teacher")


def batches(config: Config) -> Any:
    clips = made_clips(16, config.data.clip_frames, config.data.clip_size)
    return memory_batches(clips, build_clip_spec(config), config.seed, config.train.global_batch)


def figures(config: Config) -> tuple[dict[str, Tensor], dict[str, Tensor], TwoViews]:
    """Figures and scalars of the first step, and the model after it."""
    model = build_model(config, CPU, CLASSES)
    optimizer = build_optimizer(config, model.policy, model.method)
    telemetry = Telemetry(model.method, optimizer)
    batch = shard_batch(next(batches(config)(0)), dist.rank(), dist.world_size())
    _, scalars = train_step(model, batch, optimizer, 0.0)
    return telemetry.read(), scalars, model


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_all_figures(method: str) -> None:
    found, scalars, model = figures(tiny_config(method, "moco.queue=16"))
    assert set(found) == NAMES and all(bool(value.isfinite()) for value in found.values())
    if "similarity_positive" in scalars:
        assert found["alignment"].item() == pytest.approx(2 - 2 * scalars["similarity_positive"].item(), abs=1e-5)
    grads = [p.grad.flatten() for p in model.method.parameters() if p.grad is not None]
    assert found["grad_norm"].item() == pytest.approx(torch.cat(grads).norm().item(), rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_computes_the_same_with_and_without_its_figures(method: str) -> None:
    config = tiny_config(method, "moco.queue=16", "train.epochs=2", "run.log_every=1")
    watched = pretrain(config, batches(config), 2, MetricsInMemory(), classes=CLASSES).state_dict()
    plain = build_model(config, CPU, CLASSES)
    optimizer = build_optimizer(config, plain.policy, plain.method)
    for i, batch in enumerate(b for epoch in range(2) for b in batches(config)(epoch)):
        set_lr(optimizer, i, 4, 2)
        train_step(plain, batch, optimizer, i / 4)
    assert [k for k, v in plain.state_dict().items() if isinstance(v, Tensor) and not torch.equal(v, watched[k])] == []


def _my_figures() -> dict[str, Tensor]:
    return figures(tiny_config("backbone.norm=group", "method=moco", "moco.queue=16"))[0]


def test_two_ranks_see_the_embeddings_of_both(tmp_path: Path) -> None:
    expected = _my_figures()
    for found in on_two_ranks(_my_figures, tmp_path):
        for name in NAMES - {"grad_norm", "grad_norm_cropper"}:  # those are means over ranks only under DDP
            assert found[name].item() == pytest.approx(expected[name].item(), abs=1e-4), name


def probed(folder: Path, probe: Probe | None, *overrides: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    config = tiny_config("train.epochs=4", "run.log_every=1", *overrides)
    recorder = Recorder(folder)
    model = pretrain(config, batches(config), 2, recorder, probe=probe)
    recorder.close()
    return read_lines(folder / "metrics.jsonl"), model.state_dict()


def test_a_probe_is_logged_and_does_not_disturb_the_run(tmp_path: Path) -> None:
    def probe(backbone: nn.Module) -> dict[str, float]:
        return {"probe_knn": float(torch.rand(()))}

    every = ("probe.every=3", "probe.data=somewhere")
    with_probe, weights = probed(tmp_path / "a", probe, *every)
    without, expected = probed(tmp_path / "b", None)
    assert [line["step"] for line in with_probe if "probe_knn" in line] == [1, 3, 6, 8]
    assert all(torch.equal(weights[name], value) for name, value in expected.items() if isinstance(value, Tensor))
    left_out = {"probe_knn", "clips_per_s", "data_wait"}
    assert [{k: v for k, v in line.items() if k not in left_out} for line in with_probe] == [
        {k: v for k, v in line.items() if k not in left_out} for line in without
    ]


def test_a_probe_that_fails_ends_with_a_warning_and_the_run_goes_on(tmp_path: Path) -> None:
    def probe(backbone: nn.Module) -> dict[str, float]:
        raise DataError("no such folder")

    lines, _ = probed(tmp_path, probe, "probe.every=1", "probe.data=somewhere")
    assert len(lines) == 8
    (warning,) = read_lines(tmp_path / "warnings.jsonl")
    assert warning == {"step": 1, "text": "step 1: no more probes, because one has failed: no such folder"}
