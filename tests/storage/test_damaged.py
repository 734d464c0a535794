"""One damaged file in a run's or a sweep's folder breaks only what needs it, and is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from paramcrop.errors import DataError
from paramcrop.settings.presets import load_config
from paramcrop.storage.jsonl import append_line, read_lines
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import begin, is_finished, read_provenance, read_status, write_provenance, write_status
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.study import FILE, open_study

CONTENTS = (b"", b"{", b"\xff\xfe\x00", b"[]", b"3")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_provenance(tmp_path, load_config("demo"), "data")
    write_status(tmp_path, "finished", checkpoint="epoch=0001")
    return tmp_path


@pytest.mark.parametrize("content", CONTENTS)
def test_a_damaged_status_is_that_of_no_finished_run(run: Path, content: bytes) -> None:
    (run / "status.json").write_bytes(content)
    assert read_status(run) == {"state": "damaged"} and not is_finished(run)


@pytest.mark.parametrize("content", CONTENTS)
def test_damaged_lines_are_left_out(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "history.jsonl"
    append_line(file, {"event": "a"})
    with file.open("ab") as lines:
        lines.write(content + b"\n")
    append_line(file, {"event": "b"})
    assert [line["event"] for line in read_lines(file)] == ["a", "b"]


@pytest.mark.parametrize("name", ["provenance.json", "config.yaml"])
@pytest.mark.parametrize("content", CONTENTS)
def test_a_run_goes_on_with_a_note_where_what_it_began_with_is_damaged(run: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    if name == "provenance.json":
        with pytest.raises(DataError, match=r"provenance\.json must say what a run is of, but is damaged"):
            read_provenance(run)
    said = list[str]()
    begin(Mirror(run), load_config("demo"), "data", {}, said.append)
    assert len(said) == 1 and f"{run}/{name} must" in said[0] and said[0].endswith("is damaged; it is written anew")
    assert read_provenance(run)["data"] == "data"
    begin(Mirror(run), load_config("demo"), "data", {}, said.append)
    assert len(said) == 1


def test_a_damaged_study_is_named(tmp_path: Path) -> None:
    fields = {"question": "Which?", "params": {"optim.lr": {"uniform": [0, 1]}}, "search": "random", "samples": 1}
    (tmp_path / FILE).write_text("{damaged\n{}\n")
    with pytest.raises(DataError, match=f"{tmp_path}/{FILE} must be a study, but is damaged; delete it"):
        open_study(tmp_path, "mine", Space.model_validate(fields))
