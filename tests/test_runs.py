from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from paramcrop.config import run_id
from paramcrop.errors import ConfigError
from paramcrop.presets import load_config
from paramcrop.runs import commit, home, new_run_folder, read_lines, write_provenance


def test_folders_are_named_after_the_run_and_never_reused(tmp_path: Path) -> None:
    config = load_config("demo", None, [f"run.storage={tmp_path}"])
    name = f"demo-{run_id(config, 'data')}"
    assert [new_run_folder(config, "data").name for _ in range(3)] == [name, f"{name}-2", f"{name}-3"]


def test_storage_defaults_to_the_home_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARAMCROP_HOME", str(tmp_path))
    assert home() == tmp_path
    assert new_run_folder(load_config("demo"), "data").parent == tmp_path / "runs"


def test_storage_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run\.storage must be a folder that can be written to"):
        new_run_folder(load_config("demo", None, [f"run.storage={tmp_path}/file/below"]), "data")
    with pytest.raises(ConfigError, match="must be a folder that all nodes share, but is the URI"):
        new_run_folder(load_config("demo", None, ["run.storage=s3://bucket"]), "data")


def test_what_ran_can_be_told_afterwards(tmp_path: Path) -> None:
    config = load_config("demo", None, ["seed=3"])
    write_provenance(tmp_path, config, "data")
    assert load_config(None, tmp_path / "config.yaml") == config
    facts = json.loads((tmp_path / "provenance.json").read_text())
    assert facts["run_id"] == run_id(config, "data")
    assert (facts["data"], facts["seed"], facts["commit"]) == ("data", 3, commit())
    assert facts["versions"]["torch"] != "not installed"
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["cropper"]["lower"] == 0.2


def test_a_line_still_being_written_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert read_lines(file) == []
    file.write_text('{"step": 1}\n{"ste')
    assert read_lines(file) == [{"step": 1}]
