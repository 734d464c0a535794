"""What a run never reads is not in its id: the table of ``unread``, against what two steps compute."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from paramcrop.data.clips import draw_cubes, square_boxes
from paramcrop.data.synthetic import CLASSES
from paramcrop.settings.config import Config
from paramcrop.settings.identity import flatten, run_id, where_fields
from paramcrop.settings.unread import READ_BY, is_read
from paramcrop.training.build import build_clip_spec
from paramcrop.training.pretrain import pretrain
from tests.memory import MetricsInMemory, made_clips, memory_batches, tiny_config

TIMES = ("step_s", "clips_per_s", "data_wait", "gpu_memory")
CASES = [  # settings of a run; a setting that it never reads, changed
    *((), "moco.queue=512"),
    *((), "moco.temperature=0.2"),
    *((), "mean_teacher.weight=3"),
    *((), "data.labels=0.5"),
    *((), "policies.hard=0.5"),
    *((), "policies.manual=[0.2, 0.3]"),
    *((), "policies.autoaugment=svhn"),
    *(("method=moco", "moco.queue=16"), "simclr.temperature=0.3"),
    *(("method=moco", "moco.queue=16", "policy=random"), "moco.key_crop_grad=false"),
    *(("method=mean_teacher", "mean_teacher.labelled=0.5"), "projector.size=32"),
    *(("method=mean_teacher", "mean_teacher.labelled=0.5"), "simclr.temperature=0.3"),
    *(("projector.layers=1",), "projector.hidden=64"),
    *(("projector.layers=1",), "projector.batch_norm=true"),
    *(("policy=random",), "cropper.layers=3"),
    *(("policy=random",), "cropper.hidden=16"),
    *(("policy=random",), "cropper.reversal=false"),
    *(("policy=random",), "cropper.lower=0.4"),
    *(("policy=random",), "cropper.lr=0.1"),
    *(("policy=random",), "cropper.schedule=cosine"),
    *(("policy=random", "cropper.axes=spatial"), "cropper.temporal_scale=[0.7, 0.9]"),
    *(("policy=simple", "cropper.axes=temporal"), "cropper.spatial_scale=[0.7, 0.9]"),
    *(("policy=none",), "cropper.spatial_scale=[0.7, 0.9]"),
    *(("policy=none",), "cropper.temporal_scale=[0.7, 0.9]"),
    *(("policy=none",), "cropper.rotation=20"),
    *(("policy=none",), "cropper.noise=normal"),
    *(("policy=none",), "cropper.noise_size=64"),
    *(("cropper.axes=temporal",), "cropper.spatial_scale=[0.7, 0.9]"),
    *(("cropper.axes=spatial",), "cropper.temporal_scale=[0.7, 0.9]"),
    *(("cropper.early_stopping=false",), "cropper.lower=0.4"),
    *(("cropper.early_stopping=false",), "cropper.upper=0.6"),
    *(("cropper.layers=1",), "cropper.hidden=16"),
    *(("cropper.layers=1",), "cropper.batch_norm=true"),
    *(("backbone.name=s3d",), "backbone.depth=18"),
    *(("backbone.name=s3d",), "backbone.final_relu=false"),
    *(("augment.jitter=0",), "augment.hue=0.3"),
    *(("augment.jitter=0",), "augment.brightness=0.1"),
    *(("data.random_cube=false",), "data.random_box=[0.5, 0.6]"),
    *(("optim.name=sgd",), "optim.trust=0.01"),
]
PAIRS: list[Any] = list(zip(CASES[::2], CASES[1::2], strict=True))


@cache
def computed(*overrides: str) -> list[Any]:
    """The metrics of two steps, without times, and the boxes that clips are cut from."""
    config = tiny_config("train.max_steps=2", "run.log_every=1", *overrides)
    recorder, spec = MetricsInMemory(), build_clip_spec(config)
    pretrain(config, memory_batches(made_clips(16, 8, 32), spec, 0, 8), 2, recorder, classes=CLASSES)
    lines = [{k: v for k, v in line.items() if k not in TIMES} for line in recorder.lines]
    u = draw_cubes(np.random.default_rng(0), spec)
    return [*lines, square_boxes(u, spec, 64, 80).tolist()]


@pytest.mark.parametrize(("settings", "change"), PAIRS, ids=lambda value: value if isinstance(value, str) else None)
def test_a_setting_that_is_never_read_changes_neither_the_id_nor_the_result(settings: Any, change: str) -> None:
    base, key = tiny_config(*settings), change.partition("=")[0]
    changed = tiny_config(*settings, change)
    assert flatten(base.model_dump(mode="json"))[key] != flatten(changed.model_dump(mode="json"))[key]
    assert not is_read(base, key) and is_read(tiny_config(*reads(key)), key)
    assert run_id(changed, "data") == run_id(base, "data")
    before, after = computed(*settings), computed(*settings, change)
    assert before == after and all(math.isfinite(line["loss"]) for line in before[:-1])


def reads(key: str) -> list[str]:
    """Settings of a run that reads ``key``."""
    section, name = key.split(".")
    if section in ("moco", "mean_teacher"):
        return [f"method={section}", "moco.queue=16", "mean_teacher.labelled=0.5"]
    if key == "data.labels":
        return ["method=mean_teacher", "mean_teacher.labelled=0.5"]
    chosen = [f"policy={name}"] if section == "policies" else ["policy=paramcrop"]
    others = {"optim.trust": "optim.name=lars", "data.random_box": "data.random_cube=true"}
    extra = ["augment.jitter=0.5"] if section == "augment" else [others[key]] if key in others else []
    return [*chosen, *extra, "backbone.name=r2d3d", "projector.layers=2", "cropper.layers=2"]


def test_every_line_of_the_table_names_settings_and_has_a_case() -> None:
    keys = flatten(Config().model_dump(mode="json"))
    for name in READ_BY:
        covered = [key for key in keys if key == name or (name.endswith(".") and key.startswith(name))]
        assert covered and not set(covered) & where_fields(), name
    tried = {change.partition("=")[0] for _, change in PAIRS}
    alike = {
        "cropper.early_stopping",
        "cropper.optimizer",
        "cropper.momentum",
        "cropper.weight_decay",
        "cropper.clip_norm",
    }
    alike |= {"augment.contrast", "augment.saturation", "backbone.width", "backbone.norm", "policies.simple"}
    missing = [name for name in READ_BY if not name.endswith(".") and name not in tried | alike]
    assert not missing


@pytest.mark.parametrize("change", ["seed=1", "cropper.lr=0.1", "projector.size=16", "augment.jitter=0.5"])
def test_what_is_read_changes_both(change: str) -> None:
    assert run_id(tiny_config(change), "data") != run_id(tiny_config(), "data")
    assert computed(change) != computed()
