from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from paramcrop.errors import ConfigError
from paramcrop.report import page
from paramcrop.report.interactive.style import script
from paramcrop.report.page import make_markdown, read_table, write_report
from paramcrop.report.table import tidy_rows
from paramcrop.storage.lease import Lease
from paramcrop.sweeps.record import TrialRecord, write_record
from paramcrop.sweeps.trials import grid, make_trial
from tests.report.test_table import RIGHT, TASK, made_space, scores
from tests.sweeps.made import made_trial, write_space

LABELS = ("plain", "<b>bold</b> | *starred*", "late")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two finished trials, one of them with a hostile name, and a failed one."""
    variants = [{"label": label, "set": {"cropper.lower": i / 10}} for i, label in enumerate(LABELS)]
    space = made_space(params={}, variants=variants, question="Is <i>this</i> & that better?")
    folder = write_space(tmp_path / "sweep", space)
    done, other, late = (make_trial(space, values) for values in grid(space))
    for trial in (done, other):
        made_trial(folder, space, trial.values, scores(RIGHT))
    runs = [{"seed": 0, "folder": str(tmp_path / "gone"), "state": "failed", "error": "<script>alert(1)</script>"}]
    write_record(folder, TrialRecord(late.id, late.label, late.values, "", state="failed", runs=runs))
    return folder


class Reader(HTMLParser):
    """The tags, their attributes that load or link something, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.links, self.text = list[str](), list[str](), ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_self_contained(folder: Path) -> None:
    text = write_report(folder)[0].read_text()
    found = Reader(text)
    ours = text.replace(script(), "")  # Plotly's script names addresses, but a page without maps loads none
    assert len(ours) < len(text) < 6e6
    assert "http://" not in ours and "https://" not in ours and "url(" not in ours and "@import" not in ours
    assert found.links and all(link.startswith(("data:image/png;base64,iVBOR", "#from-")) for link in found.links)
    assert not {"link", "iframe", "object"} & set(found.tags)
    assert found.tags.count("img") == len(list((folder / "figures").glob("*.png"))) == 2


def test_user_text_is_escaped(folder: Path) -> None:
    found = Reader(write_report(folder)[0].read_text())
    assert "Is <i>this</i> & that better?" in found.text and "i" not in found.tags
    assert found.tags.count("script") == 4  # two charts, Plotly, and our own
    assert "<b>bold</b> | *starred*" in found.text and "<script>alert(1)</script>" in found.text


def test_the_page_shows_the_space_the_failures_and_the_source_of_each_number(folder: Path) -> None:
    text = Reader(write_report(folder)[0].read_text()).text
    table = read_table(folder)
    assert "3 trials: 2 done, 1 failed" in text and "late: seed 0: <script>" in text
    assert "preset: demo" in text and "clip_frames: 32" in text and "75.0 ± 62.1 [21.7]" in text
    for row in table.rows[:2]:
        for run, result in zip(row.runs, row.results, strict=True):
            assert str(run.folder) in text and run.id in text and result["eval_id"] in text
    assert "seed: 0" not in text  # seeds differ, so they are not among the shared settings


def test_the_parquet_file_has_every_number_and_every_trial(folder: Path) -> None:
    write_report(folder)
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    expected = tidy_rows(read_table(folder))
    assert [{k: v for k, v in row.items() if v is not None} for row in rows] == expected
    values = [(row["label"], row["seed"], row["value"]) for row in rows if row["metric"] == "video@1"]
    assert values == [(label, seed, v) for label in LABELS[:2] for seed, v in enumerate((0.5, 0.75, 1.0))]
    first = rows[0]
    assert first["task"] == TASK and (first["n"], first["of"]) == (4, 4) and Path(first["run"]).is_dir()
    assert first["commit"] == "c0ffee0123456789" and first["run_commit"] and first["run_id"] and first["eval_id"]
    assert (rows[-1]["label"], rows[-1]["state"], rows[-1]["metric"]) == ("late", "failed", None)
    assert "<script>" in rows[-1]["why"]


def test_a_swept_setting_is_a_column_of_numbers_or_of_texts(tmp_path: Path) -> None:
    space = made_space(
        params={"cropper.lower": [0, 0.1], "cropper.spatial_scale": [[0.5, 1.0]], "optim.clip_norm": [None, 1]}
    )
    folder = write_space(tmp_path, space)
    for values in grid(space):
        trial = make_trial(space, values)
        write_record(folder, TrialRecord(trial.id, trial.label, trial.values, ""))
    write_report(folder)
    columns = pq.read_table(folder / "results.parquet").to_pydict()
    assert columns["param.cropper.lower"] == [0.0, 0.0, 0.1, 0.1]
    assert columns["param.cropper.spatial_scale"] == ["[0.5,1.0]"] * 4
    assert columns["param.optim.clip_norm"] == [None, "1"] * 2


def test_the_markdown_table_keeps_its_columns_for_any_name(folder: Path) -> None:
    write_report(folder)
    lines = (folder / "table.md").read_text().splitlines()
    assert lines[0] == "# Is &lt;i>this&lt;/i> & that better?"
    start = lines.index(f"## {TASK}") + 2
    assert lines[start + 2] == r"| plain | 75.0 ± 62.1 [21.7] | 75.0 ± 62.1 [21.7] | - | 4 of 4 |"
    assert lines[start + 3].startswith(r"| &lt;b>bold&lt;/b> \| \*starred\* | 75.0 ")
    assert lines[start + 4] == "| late | failed | - | - | - |"


def test_files_are_written_atomically(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(folder)
    names = {path.name for path in folder.rglob("*")}
    assert not [name for name in names if name.startswith(".")]
    before = (folder / "index.html").read_bytes()

    def broken(*arguments: object) -> str:
        raise RuntimeError("no page")

    monkeypatch.setattr(page, "make_page", broken)
    with pytest.raises(RuntimeError, match="no page"):
        write_report(folder)
    assert (folder / "index.html").read_bytes() == before
    assert {path.name for path in folder.rglob("*")} == names


def test_a_running_trial_counts_as_interrupted_if_no_sweep_is_alive(folder: Path) -> None:
    space = made_space()
    folder = write_space(folder.parent / "other", space)
    first = make_trial(space, grid(space)[0])
    write_record(folder, TrialRecord(first.id, first.label, first.values, "", state="running", doing="step 7"))
    with Lease(folder):
        assert "running: step 7" in make_markdown(read_table(folder))
    assert f"| {first.id[:6]} {first.label} | interrupted |" in make_markdown(read_table(folder))


def test_a_folder_without_a_space_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a space must be a readable file: .*space\.yaml"):
        write_report(tmp_path)
