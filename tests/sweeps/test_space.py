"""Space files: valid and invalid ones, and the settings that they give."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from paramcrop.errors import ConfigError
from paramcrop.settings.presets import preset_names
from paramcrop.sweeps.space import FOLDER, Space, find_space, read_space, space_at
from paramcrop.sweeps.trials import Trial, config_of, grid, make_trial
from paramcrop.sweeps.values import trial_id

SHIPPED = sorted(path for path in FOLDER.glob("*.yaml") if path.stem != "paper")  # an index: see test_paper.py
GRID = {"question": "?", "params": {"cropper.lower": [0, 0.1]}}
SAMPLED = {"question": "?", "params": {"cropper.lr": {"loguniform": [0.001, 0.1]}}, "search": "tpe", "samples": 3}


def space(**fields: object) -> Space:
    return Space.model_validate(GRID | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sead": [0]}, "sead is not a key; the nearest is seeds"),
        ({"evaluate": {"task": []}}, "evaluate.task is not a key; the nearest is tasks"),
        ({"params": {"cropper.lower": {"unform": [0, 1]}}}, "params.cropper.lower.unform is not a key; the nearest is"),
        (
            {"params": {"cropper.lower": {"uniform": [1, 0]}}},
            "params.cropper.lower.uniform must have low < high",
        ),
        ({"params": {"cropper.lr": {"loguniform": [0, 1]}}}, "must have low < high, both above 0, but is [0.0, 1.0]"),
        (
            {"params": {"cropper.lower": {"uniform": [0, 1]}}},
            "search=grid needs lists only, but cropper",
        ),
        ({"params": {"cropper.lower": {"uniform": [0, 1], "int": [0, 1]}}}, "must be a list or one of uniform,"),
        ({"params": {}}, "a space must have either params or variants"),
        ({"variants": [{"label": "a"}]}, "a space must have either params or variants"),
        ({"search": "tpe"}, "search=tpe needs params and a number of samples"),
        ({"seeds": []}, "seeds"),
        ({"search": "gird"}, "search"),
        ({"preset": "dem"}, "preset must be one of"),
        ({"derived": {"cropper.upper": "1 + cropper.lower"}}, "derived.cropper.upper must be KEY or NUMBER - KEY"),
        ({"derived": {"cropper.upper": "1 - cropper.lr"}}, "derived.cropper.upper must be KEY or NUMBER - KEY"),
        ({"question": ""}, "question"),
        (
            {"params": {"cropper.lower": [0.2, 0.2]}},
            "params.cropper.lower must have every value once, but has 0.2 twice",
        ),
        ({"params": {"cropper.lower": [0.2, "2e-1"]}}, "must have every value once, but has 0.2 twice"),
        (
            {"params": {"cropper.layers": [1, 1.0]}},
            "params.cropper.layers must have every value once, but has 1.0 twice",
        ),
        ({"params": {"cropper.lower": [math.inf]}}, "params.cropper.lower must have finite numbers, but has inf"),
        (
            {"search": "tpe", "samples": 2, "params": {"cropper.noise": {"choice": ["normal", "normal"]}}},
            "normal twice",
        ),
        (
            {"search": "tpe", "samples": 2, "params": {"cropper.layers": {"uniform": [1, 3]}}},
            "params.cropper.layers must be int or a list, because the setting takes no fractions",
        ),
        (
            {"params": {"policy": ["none"]}, "derived": {"cropper.upper": "1 - policy"}},
            "derived.cropper.upper must subtract numbers, but policy has 'none'",
        ),
        (
            {"params": {"cropper.spatial_scale": [[0.1, 1]]}, "derived": {"cropper.upper": "1-cropper.spatial_scale"}},
            "derived.cropper.upper must subtract numbers, but cropper.spatial_scale has [0.1, 1]",
        ),
        ({"derived": {"cropper.upper": "1.2.3 - cropper.lower"}}, "derived.cropper.upper must be KEY or NUMBER - KEY"),
        (
            {"derived": {"cropper.lower": "1 - cropper.lower"}},
            "a swept setting must not be derived as well, but cropper",
        ),
        ({"evaluate": {"seeds": [0, 0]}}, "evaluate.seeds must differ, but are [0, 0]"),
        ({"objective": [{}, {"metric": "gpu_hours"}]}, "several objectives need a search other than grid"),
    ],
)
def test_a_mistake_is_one_line_with_the_file_and_the_key(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(GRID | fields))
    with pytest.raises(ConfigError) as caught:
        read_space(file)
    assert str(caught.value).startswith("mine.yaml: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_one_without_a_mapping_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "bad.yaml").write_text("a: [")
    for name, message in (("list.yaml", "must contain 'key: value' lines"), ("bad.yaml", "a space must be YAML")):
        with pytest.raises(ConfigError, match=message):
            read_space(tmp_path / name)
    with pytest.raises(ConfigError, match="'es_bound'; the nearest is es_bounds"):
        find_space("es_bound")
    assert find_space("es_bounds") == FOLDER / "es_bounds.yaml"


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    text = "question: '?'\nparams: {optim.lr: [1e-3, 0.01], epochs: [1e-1, 5e-1], 'cropper.spatial_scale[0]': [2e-1]}\n"
    (tmp_path / "mine.yaml").write_text(text + "derived: {cropper.upper: 9e-1 - optim.lr}\nset: {data.labels: 5e-1}\n")
    sweep = read_space(tmp_path / "mine.yaml")
    trials = [make_trial(sweep, values) for values in grid(sweep)]
    assert trials[0].values == {"optim.lr": 0.001, "epochs": 0.1, "cropper.spatial_scale[0]": 0.2}
    config = config_of(sweep, trials[0], 0)
    assert (config.optim.lr, config.train.epochs, config.cropper.upper) == (0.001, 3, 0.899)
    words = space(params={"cropper.noise": ["normal"], "optim.lr": ["fast"]})
    assert words.params["cropper.noise"].listed == ("normal",) and words.params["optim.lr"].listed == ("fast",)


@pytest.mark.parametrize("value", ["many", 0, -1, True, math.nan])
def test_epochs_that_are_no_multiple_are_one_line(value: object) -> None:
    sweep = space(params={"cropper.lower": [0.1]}, set={"epochs": value})
    with pytest.raises(ConfigError, match="epochs must be a number above 0, a multiple of the preset's, but is"):
        config_of(sweep, make_trial(sweep, {"cropper.lower": 0.1}), 0)


def test_a_grid_is_the_product_in_the_files_order() -> None:
    cells = grid(space(params={"cropper.lower": [0.2, 0.1], "cropper.layers": [1, 2]}))
    assert [(c["cropper.lower"], c["cropper.layers"]) for c in cells] == [(0.2, 1), (0.2, 2), (0.1, 1), (0.1, 2)]


def test_settings_reach_the_config_in_their_order_of_precedence() -> None:
    sweep = space(
        set={"optim.lr": 0.5, "cropper.hidden": 8},
        derived={"cropper.upper": "1 - cropper.lower"},
        epochs=0.5,
    )
    config = config_of(sweep, make_trial(sweep, {"cropper.lower": 0.1}), seed=7)
    assert (config.cropper.lower, config.cropper.upper, config.cropper.hidden) == (0.1, 0.9, 8)
    assert (config.optim.lr, config.train.epochs, config.seed) == (0.5, 15, 7)  # the demo has 30 epochs


def test_one_element_of_a_list_can_be_swept() -> None:
    sweep = space(params={"cropper.spatial_scale[0]": [0.3]})
    config = config_of(sweep, make_trial(sweep, {"cropper.spatial_scale[0]": 0.3}), seed=0)
    assert config.cropper.spatial_scale == (0.3, 1.0)
    for key in ("cropper.lower[0]", "cropper.spatial_scale[2]"):
        with pytest.raises(ConfigError, match="is not an element of a list setting"):
            config_of(space(params={key: [0.3]}), Trial({}, "it", {key: 0.3}, {}), seed=0)


def test_a_trials_mistake_names_the_trial_and_the_nearest_key() -> None:
    sweep = space(params={"cropper.lowr": [0.1]})
    with pytest.raises(ConfigError, match=r"^lowr=0.1: cropper.lowr is not a setting; the nearest is cropper.lower"):
        config_of(sweep, make_trial(sweep, {"cropper.lowr": 0.1}), seed=0)


def test_equal_values_have_one_id_whatever_their_type() -> None:
    assert trial_id({"a": 1, "b": 2.0}) == trial_id({"b": 2, "a": 1.0}) != trial_id({"a": True, "b": 2})


def test_a_presets_changes_apply_and_the_command_line_wins() -> None:
    sweep = space(
        evaluate={"tasks": ["finetune"]},
        with_preset={"demo": {"seeds": [5], "set": {"optim.lr": 1.0}, "evaluate": {"tasks": ["knn"]}}},
    )
    here = space_at(sweep)
    assert (here.seeds, here.set, here.evaluate.tasks) == ((5,), {"optim.lr": 1.0}, ("knn",))
    there = space_at(sweep, "k400_simclr_s3dg", {"optim.lr": 2.0}, ["linear"], seeds=[1, 2])
    assert (there.seeds, there.set, there.evaluate.tasks) == ((1, 2), {"optim.lr": 2.0}, ("linear",))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("preset", [None, *(name for name in preset_names() if name.startswith("k400"))])
def test_every_shipped_space_makes_configs_with_every_preset(path: Path, preset: str | None) -> None:
    sweep = space_at(read_space(path), preset)
    assert yaml.safe_load(yaml.safe_dump(sweep.model_dump(mode="json", exclude_none=True)))["question"]
    cells = grid(sweep)
    for values in cells:
        config_of(sweep, make_trial(sweep, values), seed=0)
    ids = {trial_id(values) for values in cells}
    assert len(ids) == len(cells) and (cells or sweep.samples)


def test_the_spaces_that_the_readme_names_exist() -> None:
    assert {"es_bounds", "scale_ranges", "mlp_depth", "crop_search"} <= {path.stem for path in SHIPPED}
    lower = [values["cropper.lower"] for values in grid(space_at(read_space(find_space("es_bounds"))))]
    assert lower == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
