from __future__ import annotations

import pytest

from paramcrop.settings.config import Config
from paramcrop.settings.identity import identity, run_id, where_fields
from paramcrop.settings.presets import load_config


def test_defaults_are_the_papers_settings() -> None:
    c = Config()
    assert (c.data.clip_frames, c.data.clip_size, c.cropper.frames, c.cropper.size) == (64, 128, 16, 112)
    assert (c.optim.name, c.optim.lr, c.optim.weight_decay, c.train.global_batch) == ("lars", 0.3, 1e-6, 1024)
    assert (c.cropper.spatial_scale, c.cropper.temporal_scale, c.cropper.rotation) == ((0.5, 1), (0.5, 1), 0)
    assert (c.cropper.lower, c.cropper.upper, c.cropper.layers) == (0.2, 0.8, 2)
    assert c.effective_lr == pytest.approx(2.4)
    assert c.chance_loss() == pytest.approx(7.624, abs=1e-3)


def test_run_ids_are_these() -> None:
    """Golden: a change here means that finished runs are no longer recognised; then raise METHOD_VERSION."""
    assert run_id(Config(), "data") == "a226e0aca710"
    assert run_id(load_config("demo"), "data") == "3d3317b2aa61"


def test_identity_ignores_where_and_how_fast_a_run_computes() -> None:
    moved = load_config(
        None, None, ["train.workers=4", "run.storage=/elsewhere", "data.shards=s3://b/x", "run.log_every=1"]
    )
    assert run_id(moved, "data") == run_id(Config(), "data")
    for change in ("seed=1", "cropper.lower=0.1", "backbone.norm=group", "train.precision=float32"):
        assert run_id(load_config(None, None, [change]), "data") != run_id(Config(), "data"), change
    assert run_id(Config(), "other data") != run_id(Config(), "data")


def test_identity_holds_only_what_differs_from_the_defaults() -> None:
    changed = identity(load_config(None, None, ["optim.lr=0.2", "cropper.layers=2"]), "data")
    assert changed["settings"] == {"optim.lr": 0.2}


def test_where_fields() -> None:
    assert where_fields() == {
        *(
            "data.shards",
            "data.max_failed",
            "data.decode_timeout",
            "data.task_rows",
            "train.workers",
            "train.device",
            "train.cpus_per_worker",
            "train.data_cpus",
            "train.wait_minutes",
            "train.max_restarts",
            "train.threads",
        ),
        *("run.name", "run.storage", "run.log_every", "run.checkpoint_epochs", "run.ray_logs"),
        *("probe.every", "probe.data", "probe.videos"),
    }


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 1
