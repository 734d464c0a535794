"""A paper's table filled with our results: which are comparable, and what the page says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paramcrop.evaluation.statistics import Mean
from paramcrop.paper.spaces import paper_space, with_stand_in
from paramcrop.paper.tables import Paper
from paramcrop.report.page import read_table, write_paper, write_report
from paramcrop.report.paper_table import Filled, Verdict, differs, fill, show_both, show_verdict, view
from paramcrop.storage.runs import write_provenance
from paramcrop.sweeps.record import TrialRecord, read_records, write_record
from paramcrop.sweeps.space import Space, space_at
from paramcrop.sweeps.trials import config_of, grid, make_trial
from tests.sweeps.made import made_result, made_run, write_space

K400 = "k400_simclr_s3dg"


def made_table(folder: Path, space: Space, about: dict[str, Any], right: int, **result: Any) -> Path:
    """A sweep of a table whose row ParamCrop has one run and one evaluation on HMDB51's 1530 videos."""
    write_space(folder, space)
    values = next(values for values in grid(space) if values["variant"] == "ParamCrop")
    trial = make_trial(space, values)
    run = made_run(folder / "run", space, values, 0)
    write_provenance(run, config_of(space, trial, 0), "data", about)
    scores = {"video@1": [1.0] * right + [0.0] * (1530 - right)}
    fields: dict[str, Any] = {"task": "hmdb51/finetune", "classes": 51, "source": "hmdb51"} | result
    file = made_result(run, 0, scores, **fields)
    runs = [{"seed": 0, "folder": str(run), "state": "finished", "error": ""}]
    write_record(folder, TrialRecord(trial.id, trial.label, trial.values, "", state="done", runs=runs, results=[file]))
    return folder


def the_cell(folder: Path) -> Filled:
    """The cell of ParamCrop on HMDB51."""
    return next(line for line in fill(read_table(folder)) if line.label == "ParamCrop").cells[0]


KINETICS = {"dataset": "kinetics", "videos": 240000, "classes": 400, "short_side": 256}


def test_only_the_papers_own_run_and_protocol_are_comparable(paper: Paper, tmp_path: Path) -> None:
    space = space_at(paper_space(paper, "table1"), K400)
    same = the_cell(made_table(tmp_path / "same", space, KINETICS, 920))  # 60.1 %, the paper has 59.9
    assert (same.mismatches, same.paper) == ((), 0.599) and same.verdict is not None and not same.verdict.differs
    assert same.verdict.also == ("Manual Simulation 58.6",) and same.verdict.limits == ("one seed", "one split")
    far = the_cell(made_table(tmp_path / "far", space, KINETICS, 700))
    assert far.mismatches == () and far.verdict is not None and far.verdict.differs
    other = KINETICS | {"videos": 100, "classes": 600}
    other_videos = the_cell(made_table(tmp_path / "k600", space, other, 920))
    assert other_videos.mismatches == ("pretrained on 100 kinetics videos",) and other_videos.verdict is None
    numbers = the_cell(made_table(tmp_path / "numbers", space, KINETICS, 920, numbers=["epochs=3"]))
    assert numbers.mismatches == ("paper-finetune with other parameters",)
    elsewhere = the_cell(made_table(tmp_path / "elsewhere", space, KINETICS, 920, classes=8, source="folder"))
    assert elsewhere.mismatches == ("evaluated on folder with 8 classes",)
    changed = space_at(paper_space(paper, "table1"), K400, {"train.global_batch": 512})
    batch = the_cell(made_table(tmp_path / "batch", changed, KINETICS, 920))
    assert batch.mismatches == ("1 setting differs from the paper's (train.global_batch)",)


@pytest.mark.parametrize(
    ("videos", "settings", "result", "reason"),
    [
        ({}, {}, {"short_side": 128}, "evaluated on frames enlarged from 112 to 224 pixels"),
        ({}, {}, {"short_side": None}, "evaluated on frames of a size that was not recorded"),
        ({}, {}, {"videos": 6765}, "evaluated on 6765 of the 6766 videos of hmdb51"),
        ({}, {}, {"unread": 3}, "evaluated on 1530 of 1533 test videos"),
        ({"short_side": 128}, {}, {}, "pretrained on frames enlarged from 112 to 128 pixels"),
        ({"short_side": 128}, {"data.random_cube": False}, {}, ""),
        ({"short_side": None}, {}, {}, "pretrained on frames of a size that was not recorded"),
        ({"videos": 215_999}, {}, {}, "pretrained on 215999 of the 240000 videos of kinetics, train"),
        ({"videos": 220_000}, {}, {}, ""),  # what is left of Kinetics
    ],
)
def test_enlarged_frames_and_missing_videos_are_marked(
    paper: Paper, tmp_path: Path, videos: dict[str, Any], settings: dict[str, Any], result: dict[str, Any], reason: str
) -> None:
    space = space_at(paper_space(paper, "table1"), K400, settings)
    cell = the_cell(made_table(tmp_path / "t", space, KINETICS | videos, 920, **result))
    changed = [f"1 setting differs from the paper's ({', '.join(settings)})"] if settings else []
    assert list(cell.mismatches) == ([reason] if reason else []) + changed
    assert (cell.verdict is None) is bool(cell.mismatches)


def test_a_result_of_the_demo_is_marked_everywhere(paper: Paper, tmp_path: Path) -> None:
    space = with_stand_in(space_at(paper_space(paper, "table1")), "synthetic")
    videos = {"dataset": "synthetic", "videos": 256, "classes": 8}
    fields = {"task": "synthetic/finetune", "classes": 8, "source": "synthetic"}
    folder = made_table(tmp_path / "table1", space, videos, 920, **fields)
    cell = the_cell(folder)
    assert cell.verdict is None and "synthetic videos stand in for hmdb51 and ucf101" in cell.mismatches
    filled = view(read_table(folder))
    assert filled.title == "Table 1" and filled.lines[0].label == "Random"
    texts = {line.label: [show_both(cell) for cell in line.cells] for line in filled.lines}
    assert texts["ParamCrop"] == ["60.1 [1.3] † (59.9)", "60.1 [1.3] † (86.9)"]
    assert texts["Simple"] == ["not run yet (54.6)", "not run yet (85.3)"]
    notes = "\n".join(filled.notes)
    assert "our runs were pretrained on 256 synthetic videos, 30 epochs, at most 60 steps of 32 videos, views" in notes
    assert "† not comparable with the paper's" in notes and "significant" not in notes
    page, markdown, *_ = write_report(folder)
    for text in (page.read_text(), markdown.read_text()):
        assert "60.1 [1.3] †" in text.replace("\\", "") and "59.9" in text
    index, whole = write_paper([folder], tmp_path / "paper")
    assert 'id="table1"' in index.read_text() and "60.1 [1.3] †" in index.read_text()
    assert "## Table 1: How difficult" in whole.read_text() and "(54.6)" in whole.read_text()
    unfilled = space.model_copy(update={"layout": None})  # as a figure
    for written in write_paper([made_table(tmp_path / "figure", unfilled, videos, 920, **fields)], tmp_path / "paper"):
        assert "retrained on 256 synthetic videos, 30 epochs, at most 60 steps" in written.read_text()


def test_the_paper_differs_outside_the_errors_of_seeds_and_both_test_sets() -> None:
    mean = Mean(0.60, (0.60,), None, 0.0125, 1530, 1530, 1530, 1)
    assert not differs(mean, 0.57) and differs(mean, 0.56)  # 1.96 x sqrt(2) x 1.25 points = 3.5
    assert not differs(mean._replace(values=(0.58, 0.60, 0.62)), 0.56)


def test_a_result_near_several_of_the_papers_rows_names_all_of_them() -> None:
    also = Verdict(False, ("Hard 56.0", "Manual 58.3"))
    assert show_verdict(also) == "not told apart (nor from Hard 56.0, Manual 58.3)"
    limited = Verdict(False, (), ("one seed", "one split"))
    assert show_verdict(limited) == "not told apart (one seed and one split)"
    assert show_verdict(Verdict(True, ("Hard 56.0",), ("one seed",))) == "differs (one seed)"


def test_the_newest_records_of_a_table_are_read_in_order(paper: Paper, tmp_path: Path) -> None:
    space = space_at(paper_space(paper, "table1"), K400)
    folder = made_table(tmp_path / "t", space, KINETICS, 920)
    (record,) = read_records(folder)
    write_record(folder, replace(record, id="0" * 10, label="no longer there", values={"variant": "gone"}))
    rows = [row.label for row in read_table(folder).rows]
    assert rows == ["Random", "Simple", "Hard", "ParamCrop", "Manual Simulation", "AutoAugment", "no longer there"]
