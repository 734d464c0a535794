"""Runs by name, and their names in tables and figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from paramcrop.errors import DataError
from paramcrop.storage.find import label_runs, run_named
from paramcrop.storage.runs import write_provenance
from tests.memory import tiny_config


def run(folder: Path, data: str, dataset: str, *overrides: str) -> Path:
    folder.mkdir()
    write_provenance(folder, tiny_config(*overrides), data, {"dataset": dataset} if dataset else {})
    return folder


def test_sets_are_called_by_their_names(tmp_path: Path) -> None:
    ucf, hmdb = run(tmp_path / "a", "0123456789", "ucf101"), run(tmp_path / "b", "abcdef0123", "hmdb51")
    assert label_runs([ucf, hmdb]) == {"data=ucf101": [ucf], "data=hmdb51": [hmdb]}


def test_two_sets_of_one_name_are_told_apart_and_one_without_a_name_has_its_id(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a", "0123456789", "folder"), run(tmp_path / "b", "abcdef0123", "folder")
    third = run(tmp_path / "c", "fedcba9876", "", "seed=1")
    assert list(label_runs([first, second, third])) == ["data=folder:012345", "data=folder:abcdef", "data=fedcba9876"]


def test_a_run_is_found_by_its_name_where_one_run_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAMCROP_HOME", str(tmp_path))
    (tmp_path / "runs").mkdir()
    mine = run(tmp_path / "runs" / "mine-0123456789ab", "0123456789", "folder")
    run(tmp_path / "runs" / "mine-too-0123456789ac", "0123456789", "folder")
    assert run_named("mine") == run_named("mine-0123456789ab") == run_named("0123456789ab") == mine
    for name in ("yours", "min", "m*", "../runs/mine"):
        with pytest.raises(DataError, match=r"neither .* is one$"):
            run_named(name)
    for last in "def0":
        run(tmp_path / "runs" / f"mine-0123456789a{last}", "0123456789", "folder")
    several = "but mine is the name of mine-0123456789a0 and mine-0123456789ab and mine-0123456789ad and 2 more$"
    with pytest.raises(DataError, match=several):
        run_named("mine")
