"""What `pretrain --dry-run` prints of the settings, and the warnings of settings that do not work."""

from __future__ import annotations

import yaml

from paramcrop.settings.presets import load_config
from ray_jobs.pretrain.report import settings_text, show_workers
from ray_jobs.videos import setting_warnings


def test_a_dry_run_marks_what_differs_from_the_preset_and_from_the_defaults() -> None:
    config = load_config("demo", None, ["cropper.lower=0.1", "cropper.upper=0.9", "data.random_box=[0.5,1]"])
    text = settings_text(config, "demo")
    assert yaml.safe_load(text) == config.model_dump(mode="json")
    lines = dict(line.strip().split("  # ") for line in text.splitlines() if "  # " in line)
    assert lines["lower: 0.1"].startswith("preset ") and "default " in lines["lower: 0.1"]
    assert lines["width: 8"].startswith("default ")  # the demo's
    assert "random_box:" in lines and "seed: 0" not in lines


def test_a_queue_that_the_run_cannot_fill_is_said() -> None:
    settings = ["method=moco", "moco.queue=4096", "train.global_batch=32"]
    (line,) = setting_warnings(load_config("demo", None, [*settings, "train.max_steps=100"]), 8)
    assert line.startswith("warning: moco.queue=4096 is never filled by the 3200 videos of the run, 100 steps of 32")
    assert setting_warnings(load_config("demo", None, [*settings, "train.max_steps=200"]), 128) == []


def test_a_queue_longer_than_an_epoch_is_said() -> None:
    """Its keys are those of the query's own video too, as negatives."""
    config = load_config(
        "demo", None, ["method=moco", "moco.queue=4096", "train.global_batch=32", "train.max_steps=200"]
    )
    (line,) = setting_warnings(config, 127)
    assert line.startswith("warning: moco.queue=4096 has more keys than an epoch has videos, 4064")
    assert setting_warnings(config, 128) == []


def test_a_range_of_workers_is_shown_as_the_numbers_that_divide_the_batch() -> None:
    told = {"4": "4 worker(s)", "2..8": "2, 4 or 8 workers, as there is room", "5..8": "8 workers, as there is room"}
    for workers, text in told.items():
        assert show_workers(load_config("k400_simclr_s3dg", None, [f"train.workers={workers}"])) == text
