from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from paramcrop.errors import ConfigError
from paramcrop.settings.explain import show
from paramcrop.settings.presets import all_options, describe_options, load_config, preset_names


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads(name: str) -> None:
    assert load_config(name).run.name != "pretrain"


def test_overrides_win_over_file_over_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("cropper:\n  lower: 0.1\n  layers: 3\noptim.lr: 0.01\n")
    config = load_config("demo", file, ["cropper.layers=1", "data.random_box=[0.5,0.6]"])
    assert (config.cropper.lower, config.cropper.layers, config.optim.lr) == (0.1, 1, 0.01)
    assert config.data.random_box == (0.5, 0.6)
    assert config.backbone.depth == 10  # the preset's


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cropper.layer=3", "cropper.layer is not a setting; the nearest is cropper.layers; --help lists all"),
        ("lr=3", "lr is not a setting; the nearest is optim.lr"),
        ("cropper=3", "cropper is a section, not a setting; set one of cropper.frames"),
        ("cropper", "an override must be key=value, but is 'cropper'"),
        ("cropper.layers=two", "cropper.layers: must be a whole number, but is 'two'"),
        ("backbone.depth=11", r"backbone.depth must be one of 10 \| 18 \| 34 \| 50, but is 11"),
        ("backbone.name=c3d", r"backbone.name must be one of r2d3d \| s3dg \| s3d \| module:Class, but is 'c3d'"),
        ("policy=clever", r"policy must be one of paramcrop \| random \| simple .*, but is 'clever'"),
        ("cropper.lower=0.9", "cropper.lower <= upper must hold, but lower is 0.9 and upper 0.8"),
        ("data.random_box=[0.5]", "data.random_box: must be 2 values"),
        ("train.workers=3", "train.global_batch must be a multiple of train.workers, but 1024 is not one of 3"),
        ("cropper.frames=65", "cropper.frames must be at most data.clip_frames"),
        ("optim.lr=.inf", "optim.lr: must be a finite number, but is inf"),
        ("run.name=a b", "run.name: must match"),
        ("seed=true", "seed: must not be true or false, but is True"),
    ],
)
def test_errors_are_one_line_with_the_key_and_the_fix(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(None, None, [override])
    assert "\n" not in str(caught.value)


def test_unknown_preset_and_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--preset must be one of demo.*the nearest is demo"):
        load_config("dmo")
    with pytest.raises(ConfigError, match=r"--config must be a readable file: .*No such file"):
        load_config(None, tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1\nb: 2")
    with pytest.raises(ConfigError, match="--config must be YAML"):
        load_config(None, broken)
    broken.write_text("- 1")
    with pytest.raises(ConfigError, match="must contain 'key: value' lines"):
        load_config(None, broken)


def test_help_lists_every_option_with_its_default() -> None:
    text = describe_options()
    for key, field in all_options():
        assert f"  {key}={show(field.default)}" in text
        assert field.description


def test_defaults_can_be_typed_as_shown() -> None:
    shown = [f"{key}={show(field.default)}" for key, field in all_options()]
    assert load_config(None, None, shown) == load_config()


def test_a_dumped_config_loads_again(tmp_path: Path) -> None:
    config = load_config("demo", None, ["optim.clip_norm=1"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(None, file) == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("policy=random cropper.noise_size=4", "cropper.noise_size must be at least 6 for policy=random, but is 4"),
        ("policy=hard cropper.noise_size=8", "cropper.noise_size must be at least 9 for policy=hard, but is 8"),
        (
            "train.global_batch=2 train.workers=2 cropper.batch_norm=true",
            "train.global_batch must be at least 2 x train.workers for cropper.batch_norm=true, but is 2 for 2 workers",
        ),
        (
            "method=moco moco.queue=4 train.global_batch=2 train.workers=2",
            "train.global_batch must be at least 2 x train.workers for projector.batch_norm=true",
        ),
    ],
)
def test_settings_that_would_fail_in_training_are_refused(overrides: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, None, overrides.split())


@pytest.mark.parametrize(
    "overrides",
    [
        "cropper.noise_size=4",
        "policy=none cropper.noise_size=1",
        "policy=autoaugment cropper.noise_size=1",  # which crops by R1 and R2 alone
        "train.global_batch=2 train.workers=2",  # both views of a video are one batch of two
        "train.global_batch=2 train.workers=2 policy=random cropper.batch_norm=true",  # which it never reads
        "train.global_batch=2 train.workers=2 train.device=cuda cropper.batch_norm=true",  # over both ranks
    ],
)
def test_settings_that_train_are_not_refused(overrides: str) -> None:
    assert load_config(None, None, overrides.split()).batch_per_worker >= 1


def test_the_defaults_that_are_shown_are_the_presets() -> None:
    with pytest.raises(ConfigError, match=r"optim.lr: must be a number, but is 'x' \(default of the preset: 0.05\)"):
        load_config("demo", None, ["optim.lr=x"])
    with pytest.raises(ConfigError, match=r"optim.lr: must be a number, but is 'x' \(default: 0.3\)"):
        load_config("k400_simclr_s3dg", None, ["optim.lr=x"])
    assert "optim.lr=0.3\n" in describe_options()
    assert "optim.lr=0.05 (default 0.3)\n" in describe_options("demo")
