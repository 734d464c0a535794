from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from paramcrop.errors import ConfigError
from paramcrop.settings.identity import run_id
from paramcrop.settings.presets import load_config
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.runs import (
    changes,
    home,
    is_finished,
    read_status,
    run_folder,
    write_provenance,
    write_status,
)
from paramcrop.storage.versions import commit


def test_a_run_keeps_its_folder_when_its_name_changes(tmp_path: Path) -> None:
    config = load_config("demo", None, [f"run.storage={tmp_path}"])
    folder = run_folder(config, "data")
    assert folder.name == f"demo-{run_id(config, 'data')}"
    again = load_config("demo", None, [f"run.storage={tmp_path}", "run.name=other", "train.threads=2"])
    assert run_folder(again, "data") == folder
    other = load_config("demo", None, [f"run.storage={tmp_path}", "seed=1"])
    assert run_folder(other, "data") != folder
    assert run_folder(config, "other data") != folder


def test_finished_needs_a_status_and_a_checkpoint(tmp_path: Path) -> None:
    assert read_status(tmp_path) == {"state": "new"}
    for state, finished in (("running", False), ("stopped@3", False), ("finished", True), ("failed", False)):
        checkpoint = tmp_path / "checkpoints" / "epoch=0003"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "meta.json").write_text("{}")
        write_status(tmp_path, state, checkpoint="epoch=0003")
        assert is_finished(tmp_path) is finished
        (checkpoint / "meta.json").unlink()
        assert not is_finished(tmp_path)
    states = [line["event"] for line in read_lines(tmp_path / "history.jsonl")]
    assert states == ["running", "stopped@3", "finished", "failed"]


def test_changes_since_the_first_start_are_listed(tmp_path: Path) -> None:
    config = load_config("demo", None, ["seed=3"])
    write_provenance(tmp_path, config, "data")
    assert changes(tmp_path, config) == []
    facts = json.loads((tmp_path / "provenance.json").read_text())
    facts["versions"]["torch"] = "0.1"
    facts["commit"] = "abc"
    (tmp_path / "provenance.json").write_text(json.dumps(facts))
    lines = changes(tmp_path, load_config("demo", None, ["seed=3", "train.workers=2"]))
    assert [line.split(" is ")[0] for line in lines] == ["train.workers was 1,", "commit was abc,", "torch was 0.1,"]


def test_storage_defaults_to_paramcrop_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAMCROP_HOME", str(tmp_path))
    assert home() == tmp_path
    assert run_folder(load_config("demo"), "data").parent == tmp_path / "runs"


def test_unwritable_storage_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run\.storage must be a writable folder"):
        run_folder(load_config("demo", None, [f"run.storage={tmp_path}/file/below"]), "data")


def test_provenance_records_what_ran(tmp_path: Path) -> None:
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
