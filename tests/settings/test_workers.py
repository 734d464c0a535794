"""A range of workers as a setting: how it is written, what is refused, and that it changes no id."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from paramcrop.errors import ConfigError
from paramcrop.settings.identity import run_id
from paramcrop.settings.presets import load_config
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import config_of, make_trial


def counts(*overrides: str) -> tuple[int, ...]:
    return load_config("k400_simclr_s3dg", None, overrides).worker_counts


def test_of_a_range_only_the_numbers_that_divide_the_batch_are_used() -> None:
    assert counts("train.workers=2..8") == (2, 4, 8)
    assert counts("train.workers=2..8", "train.global_batch=1008") == (2, 3, 4, 6, 7, 8)
    assert counts("train.workers=4") == counts("train.workers=4..4") == (4,)
    config = load_config("k400_simclr_s3dg", None, ["train.workers=2..8"])
    assert config.batch_per_worker == 512 and config.elastic


def test_a_range_is_kept_in_a_file(tmp_path: Path) -> None:
    config, file = load_config("demo", None, ["train.workers=1..2"]), tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(None, file) == config and config.train.workers == "1..2"


@pytest.mark.parametrize("value", ["0", "-1", "8..2", "0..2", "2..", "two", "1.5", "[1,2]", "null"])
def test_what_is_no_number_or_range_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^train.workers must be at least 1, or a range such as 2\.\.8, but is "):
        load_config("demo", None, [f"train.workers={value}"])


def test_a_range_without_a_number_that_divides_the_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"multiple of a number in train.workers, but 1024 is not one of 5\.\.7"):
        counts("train.workers=5..7")


def test_a_run_with_a_range_is_that_of_one_worker() -> None:
    """Its batch norms see the samples of all workers, so their number does not change what it computes."""
    for device in ("cpu", "cuda"):
        one, some = (load_config("demo", None, [f"train.workers={n}"]).on(device) for n in ("1", "1..4"))
        assert run_id(some, "data") == run_id(one, "data")
    assert load_config("demo", None, ["train.workers=2"]).on("cpu").norm_workers == 2


def test_one_video_a_worker_suffices_for_norms_over_all_workers() -> None:
    narrow = ("method=moco", "moco.queue=4", "train.global_batch=2", "train.device=cpu")
    assert counts(*narrow, "train.workers=1..2") == (1, 2)


def test_a_sweep_refuses_a_range_in_one_line() -> None:
    space = Space.model_validate(
        {"question": "?", "params": {"cropper.lower": [0.1]}, "set": {"train.workers": "2..4"}, "seeds": [0]}
    )
    trial = make_trial(space, {"cropper.lower": 0.1})
    with pytest.raises(ConfigError, match=r"a sweep needs one number in train.workers, but it is 2\.\.4$"):
        config_of(space, trial, 0)
