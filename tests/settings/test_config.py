from __future__ import annotations

import pytest

from paramcrop.errors import ConfigError
from paramcrop.settings.config import Config
from paramcrop.settings.identity import identity, older_id, run_id, where_fields
from paramcrop.settings.presets import load_config

SCALES = ("sqrt", "views/256", "none")


def test_defaults_are_the_papers_settings() -> None:
    c = Config()
    assert (c.data.clip_frames, c.data.clip_size, c.cropper.frames, c.cropper.size) == (64, 128, 16, 112)
    assert (c.optim.name, c.optim.lr, c.optim.weight_decay, c.train.global_batch) == ("lars", 0.3, 1e-6, 1024)
    assert (c.cropper.spatial_scale, c.cropper.temporal_scale, c.cropper.rotation) == ((0.5, 1), (0.5, 1), 0)
    assert (c.cropper.lower, c.cropper.upper, c.cropper.layers) == (0.2, 0.8, 2)
    assert c.effective_lr == pytest.approx(2.4)
    small = {scale: load_config(None, None, ["train.global_batch=64", f"optim.lr_scale={scale}"]) for scale in SCALES}
    assert [round(small[scale].effective_lr, 6) for scale in SCALES] == [0.6, 0.15, 0.3]
    assert c.chance_loss() == pytest.approx(7.624, abs=1e-3)


def on(device: str, *overrides: str) -> Config:
    return load_config(None, None, [f"train.device={device}", *overrides])


def test_run_ids_are_these() -> None:
    """Golden: a change here means that finished runs are no longer recognised; then raise METHOD_VERSION."""
    assert run_id(on("cuda"), "data") == "1ce846b8aa34"
    assert run_id(load_config("demo").on("cpu"), "data") == "d35440b831f8"


OLD_DEMO = (  # the demo's settings under version 1
    *("augment.jitter=0", "augment.brightness=0.8", "augment.contrast=0.8", "augment.saturation=0.8"),
    *("augment.hue=0.2", "cropper.lr=0.002", "cropper.clip_norm=null"),
    *("projector.batch_norm=false", "projector.final_batch_norm=false"),
)


def test_runs_of_version_1_are_found_by_the_ids_they_had() -> None:
    assert older_id(Config(), "data") == "a226e0aca710"
    assert older_id(load_config("demo", None, OLD_DEMO).on("cpu"), "data") == "3d3317b2aa61"


def test_the_decoder_is_part_of_the_identity_and_version_1_read_with_decord() -> None:
    ids = {name: run_id(on("cpu", f"data.decoder={name}"), "data") for name in ("planes", "decord", "torchcodec")}
    assert len(set(ids.values())) == 3 and ids["planes"] == run_id(on("cpu"), "data")
    assert run_id(on("cpu", "data.cache=/dev/shm/frames"), "data") == ids["planes"]
    old = older_id(on("cpu"), "data")
    assert old is not None and older_id(on("cpu", "data.decoder=decord"), "data") == old
    assert older_id(on("cpu", "data.decoder=torchcodec"), "data") is None


def test_a_cache_needs_planes() -> None:
    with pytest.raises(ConfigError, match="cache needs decoder=planes, but decoder is decord"):
        load_config(None, None, ["data.cache=/dev/shm/frames", "data.decoder=decord"])


def test_identity_ignores_where_and_how_fast_a_run_computes() -> None:
    moved = on("cpu", "train.threads=4", "run.storage=/elsewhere", "data.shards=s3://b/x", "run.log_every=1")
    assert run_id(moved, "data") == run_id(on("cpu"), "data")
    for change in ("seed=1", "cropper.lower=0.1", "backbone.norm=group", "train.precision=bfloat16"):
        assert run_id(on("cpu", change), "data") != run_id(on("cpu"), "data"), change
    assert run_id(on("cpu"), "other data") != run_id(on("cpu"), "data")


def test_no_early_stopping_and_bounds_that_cut_nothing_are_one_run() -> None:
    off, wide = on("cpu", "cropper.early_stopping=false"), on("cpu", "cropper.lower=0", "cropper.upper=1")
    assert run_id(off, "data") == run_id(wide, "data") != run_id(on("cpu"), "data")


def test_the_precision_that_a_device_gives_is_part_of_the_identity() -> None:
    assert run_id(on("cpu"), "data") != run_id(on("cuda"), "data")
    for device, precision in (("cpu", "float32"), ("cuda", "bfloat16")):
        assert on(device).precision == precision
        assert run_id(on(device, f"train.precision={precision}"), "data") == run_id(on(device), "data")
    assert run_id(on("cuda", "train.precision=float32"), "data") == run_id(on("cpu"), "data")


def test_workers_are_part_of_the_identity_where_batch_norm_is_local() -> None:
    """1 and 2 CPU workers had losses of 3.3295 and 3.3683 at step 1 under one id."""
    assert run_id(on("cpu", "train.workers=2"), "data") != run_id(on("cpu"), "data")
    assert run_id(on("cuda", "train.workers=2"), "data") == run_id(on("cuda"), "data")
    without = ("backbone.norm=group", "projector.batch_norm=false", "projector.final_batch_norm=false")
    assert run_id(on("cpu", "train.workers=2", *without), "data") == run_id(on("cpu", *without), "data")
    local = on("cpu", "train.workers=2", *without[:2], "projector.final_batch_norm=true")
    assert local.norm_workers == 2


def test_identity_holds_only_what_differs_from_the_defaults() -> None:
    changed = identity(load_config(None, None, ["optim.lr=0.2", "cropper.layers=2"]), "data")
    assert changed["settings"] == {"optim.lr": 0.2}


def test_where_fields() -> None:
    assert where_fields() == {
        *(
            "data.shards",
            "data.cache",
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
        *("run.trackers", "train.profile", "train.compile"),
        *("probe.every", "probe.data", "probe.videos"),
    }


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 1


@pytest.mark.parametrize("folder", ["/data/a #b", "#x", "/data/50% #1", "/data/a#b"])
def test_a_folder_on_the_command_line_may_have_a_hash(folder: str) -> None:
    assert load_config("demo", None, [f"data.shards={folder}"]).data.shards == folder
