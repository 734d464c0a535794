"""The table of a sweep against calculations by hand."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from paramcrop.paper.published import paper_value
from paramcrop.report.table import Table, in_order, make_table, tidy_rows
from paramcrop.report.text import all_notes, failures, setting_lines, show_cell, task_lines, trial_lines
from paramcrop.sweeps.record import TrialRecord, read_records, write_record
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import grid, make_trial
from tests.sweeps.made import DATA, made_result, made_run, made_trial, write_space

TASK = "made-up/paper-linear"
RIGHT = {0: (1, 1, 0, 0), 1: (1, 1, 1, 0), 2: (1, 1, 1, 1)}  # seed -> each video's score
OTHER = {0: (1, 0, 0, 0), 1: (0, 1, 0, 0), 2: (0, 0, 1, 1)}


def made_space(**fields: Any) -> Space:
    values = {
        "question": "Which?",
        "params": {"cropper.lower": [0.0, 0.1, 0.2, 0.3]},
        "evaluate": {"tasks": ["linear"]},
    }
    return Space.model_validate(values | fields)


def scores(of: Mapping[int, tuple[int, ...]]) -> dict[int, dict[str, tuple[int, ...]]]:
    return {seed: {"video@1": right, "clip@1": right[::-1]} for seed, right in of.items()}


def table_of(folder: Path, space: Space) -> Table:
    return make_table(space, read_records(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of four trials, two of which are done with three seeds each."""
    space = made_space()
    write_space(tmp_path / "sweep", space)
    for values, right in zip(grid(space), (OTHER, RIGHT), strict=False):
        made_trial(tmp_path / "sweep", space, values, scores(right))
    return tmp_path / "sweep"


def test_means_intervals_and_paired_differences_equal_a_calculation_by_hand(folder: Path) -> None:
    first, second, *_ = table_of(folder, made_space()).rows
    mean = second.cells[TASK, "video@1"].mean
    assert mean.values == (0.5, 0.75, 1.0) and mean.value == 0.75
    assert mean.half == pytest.approx(4.3027 * statistics.stdev([0.5, 0.75, 1.0]) / math.sqrt(3), rel=1e-4)
    assert mean.test_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4)) and (mean.n, mean.of) == (4, 4)
    # Each video counts once, with its mean over the seeds in this trial minus that in the first.
    a, b = ([statistics.fmean(column) for column in zip(*of.values(), strict=True)] for of in (RIGHT, OTHER))
    paired = [x - y for x, y in zip(a, b, strict=True)]
    assert paired == pytest.approx([2 / 3, 2 / 3, 1 / 3, 0])
    difference = second.cells[TASK, "video@1"].difference
    assert difference is not None and difference.value == pytest.approx(statistics.fmean(paired))
    # Variances over the videos and the seeds of each trial; Student's t with Satterthwaite's 6.2 degrees of freedom.
    seeds = [[statistics.fmean(right) for right in of.values()] for of in (RIGHT, OTHER)]
    variances = [statistics.variance(paired) / 4, *(statistics.variance(values) / 3 for values in seeds)]
    freedom = sum(variances) ** 2 / sum(v**2 / f for v, f in zip(variances, (3, 2, 2), strict=True))
    assert freedom == pytest.approx(6.2, abs=0.01)
    assert difference.half == pytest.approx(2.428 * math.sqrt(sum(variances)), rel=2e-3)
    assert not difference.resolved
    assert first.cells[TASK, "video@1"].difference is None


def test_the_table_shows_percentages_and_differences_to_the_first_row(folder: Path) -> None:
    table = table_of(folder, made_space())
    assert task_lines(table, table.tasks[0])[:3] == [
        ["", "video@1", "clip@1", "video@1 - lower=0.0", "n of N"],
        ["lower=0.0", "33.3 ± 35.9 [23.6]", "33.3 ± 35.9 [23.6]", "-", "4 of 4"],
        ["lower=0.1", "75.0 ± 62.1 [21.7]", "75.0 ± 62.1 [21.7]", "+41.7 ± 56.0: not resolved", "4 of 4"],
    ]


def test_fewer_than_three_seeds_are_shown_as_values_without_an_interval(tmp_path: Path) -> None:
    space = made_space(seeds=[0, 1])
    made_trial(tmp_path, space, grid(space)[0], scores({0: RIGHT[0], 1: RIGHT[1]}))
    row = table_of(tmp_path, space).rows[0]
    assert row.cells[TASK, "video@1"].mean.half is None
    assert show_cell(row.cells[TASK, "video@1"]) == "62.5 (50.0, 75.0) [24.2]"
    assert trial_lines(table_of(tmp_path, space))[1][3] == "0.600 (0.600, 0.600)"


def test_distances_are_in_the_frame_of_the_space(tmp_path: Path) -> None:
    space = made_space(seeds=[0])
    made_trial(tmp_path, space, grid(space)[0], scores({0: RIGHT[0]}))
    head, first, *_ = trial_lines(table_of(tmp_path, space))
    assert (head[3:6], first[3:5]) == (["centre distance", "IoU", "loss"], ["0.600", "0.100"])
    head, first, *_ = trial_lines(table_of(tmp_path, space.model_copy(update={"frame": "video"})))
    assert head[3:6] == ["centre distance in the video", "IoU in the video", "loss"]
    assert first[3:5] == ["0.300", "0.050"]


def test_failed_running_and_waiting_trials_are_rows_with_their_reasons(folder: Path) -> None:
    space = made_space()
    run = made_run(folder.parent / "runs" / "half", space, grid(space)[2], 0)
    fields: dict[str, Any] = {
        "state": "failed",
        "runs": [{"seed": 0, "folder": str(run), "state": "diverged", "error": "the loss must be finite, but is nan"}],
        "failures": ["made-up/paper-linear: its evaluator died"],
        "results": [str(folder / "evaluations" / "gone.json")],
    }
    failed, waiting = (make_trial(space, values) for values in grid(space)[2:])
    write_record(folder, TrialRecord(failed.id, failed.label, failed.values, "", **fields))
    table = table_of(folder, space)
    assert [row.record.state for row in table.rows] == ["done", "done", "failed", "waiting"]
    assert table.rows[3].record.id == waiting.id and task_lines(table, table.tasks[0])[4][1] == "waiting"
    assert failures(table) == [
        "lower=0.2: seed 0: the loss must be finite, but is nan",
        "lower=0.2: made-up/paper-linear: its evaluator died",
        f"lower=0.2: a result is missing: {folder}/evaluations/gone.json",
    ]
    record = TrialRecord(waiting.id, waiting.label, waiting.values, "", state="running", doing="seed 0: starts")
    write_record(folder, record)
    assert trial_lines(table_of(folder, space))[4][1] == "running: seed 0: starts"


def test_differences_refer_to_the_first_trial_with_results(tmp_path: Path) -> None:
    space = made_space()
    for values, right in zip(grid(space)[1:3], (OTHER, RIGHT), strict=True):
        made_trial(tmp_path, space, values, scores(right))
    table = table_of(tmp_path, space)
    assert table.tasks[0].reference == "lower=0.1"
    assert [TASK in {task for task, _ in row.cells} for row in table.rows] == [False, True, True, False]
    assert table.rows[2].cells[TASK, "video@1"].difference is not None


def test_there_is_no_difference_between_other_videos_or_without_scores_per_video(tmp_path: Path) -> None:
    space = made_space()
    records = [made_trial(tmp_path, space, values, scores({0: RIGHT[0]})) for values in grid(space)[:2]]
    file = Path(records[1].results[0])
    result = json.loads(file.read_text())
    result["rows"].append({"metric": "class mean", "value": 0.5, "n": 4, "of": 4})
    file.write_text(json.dumps(result | {"videos": ["a", "b", "c", "d"]}))
    cells = table_of(tmp_path, space).rows[1].cells
    assert cells[TASK, "video@1"].difference is None and cells[TASK, "class mean"].difference is None
    assert cells[TASK, "class mean"].mean.value == 0.5


def test_splits_are_averaged_within_a_seed(tmp_path: Path) -> None:
    space = made_space(seeds=[0])
    record = made_trial(tmp_path, space, grid(space)[0], scores({0: RIGHT[0]}))
    run = Path(record.runs[0]["folder"])
    record.results.append(
        made_result(run, 0, {"video@1": (1, 1, 1, 1), "clip@1": (1, 1, 1, 1)}, test="test2", unread=2)
    )
    write_record(tmp_path, record)
    table = table_of(tmp_path, space)
    mean = table.rows[0].cells[TASK, "video@1"].mean
    assert mean.values == (0.75,) and (mean.n, mean.of) == (8, 10)
    assert [(row["test"], row["value"]) for row in tidy_rows(table) if row.get("metric") == "video@1"] == [
        ("test", 0.5),
        ("test2", 1.0),
    ]


def test_the_objectives_task_and_metric_come_first(tmp_path: Path) -> None:
    space = made_space(evaluate={"tasks": ["linear", "retrieval"]}, objective={"metric": "retrieval R@5"})
    record = made_trial(tmp_path, space, grid(space)[0], scores(RIGHT))
    ranks = {"R@1": (0, 1), "R@5": (1, 1)}
    record.results += [made_result(Path(run["folder"]), run["seed"], ranks, "made-up/retrieval") for run in record.runs]
    write_record(tmp_path, record)
    first, second = table_of(tmp_path, space).tasks
    assert (first.name, first.metrics) == ("made-up/paper-retrieval-10clip", ("R@5", "R@1"))
    assert second.name == TASK


def test_a_search_is_sorted_by_its_objective() -> None:
    space = made_space(params={"cropper.lower": {"uniform": [0, 0.5]}}, search="random", samples=3)
    records = [TrialRecord(str(i), str(i), {}, "", objectives=[value]) for i, value in enumerate((0.1, None, 0.3, 0.2))]
    assert [record.id for record in in_order(space, records)] == ["2", "3", "0", "1"]
    least = space.model_copy(update={"objective": (space.objective[0].model_copy(update={"mode": "min"}),)})
    assert [record.id for record in in_order(least, records)] == ["0", "3", "2", "1"]


def test_with_two_objectives_the_front_comes_first_and_is_marked() -> None:
    objective = [{"metric": "validation R@1"}, {"metric": "gpu_hours", "mode": "min"}]
    params = {"cropper.lower": {"uniform": [0, 0.5]}}
    evaluate = {"tasks": ["validation"]}
    space = made_space(params=params, search="nsga2", samples=4, objective=objective, evaluate=evaluate)
    values: tuple[list[float | None], ...] = ([0.1, 1.0], [0.3, 2.0], [0.2, 2.0], [0.4, None], [0.3, 2.0])
    records = [TrialRecord(str(i), f"t{i}", {"cropper.lower": 0.1 * i}, "", objectives=v) for i, v in enumerate(values)]
    table = make_table(space, records)
    assert [row.record.id for row in table.rows] == ["1", "4", "0", "3", "2"]
    lines = setting_lines(table)
    assert lines[0] == ["", "cropper.lower", "validation-retrieval R@1 (%)", "gpu hours", "on the front"]
    assert lines[1] == ["t1", "0.1", "30.0 %", "2 h", "yes"] and lines[4] == ["t3", "0.3", "40.0 %", "-", ""]


def test_a_trial_that_the_space_no_longer_has_stays_in_the_table(folder: Path) -> None:
    space = made_space(params={"cropper.lower": [0.1]})
    assert [row.label for row in table_of(folder, space).rows] == ["lower=0.1", "lower=0.0"]


def test_equal_labels_are_made_unique(tmp_path: Path) -> None:
    space = made_space(params={"cropper.lower": [0.12341, 0.12342]})
    for values in grid(space):
        made_trial(tmp_path, space, values, scores({0: RIGHT[0]}))
    first, second = (row.label for row in table_of(tmp_path, space).rows)
    assert first == "lower=0.1234" and second.startswith("lower=0.1234 (")


@pytest.mark.parametrize(
    ("paper", "value"),
    [
        ({"made-up/linear video@1": 33.5}, 0.335),
        ({"linear video@1": 33.5}, 0.335),
        ({"paper-linear video@1": 33.5}, 0.335),
        ({"ucf101/linear video@1": 33.5}, None),
        ({"finetune video@1": 33.5}, None),
        ({"linear clip@1": 33.5}, None),
    ],
)
def test_the_papers_value_comes_from_the_variant(tmp_path: Path, paper: dict[str, float], value: float | None) -> None:
    space = made_space(params={}, variants=[{"label": "a", "set": {"policy": "hard"}, "paper": paper}], seeds=[0])
    made_trial(tmp_path, space, grid(space)[0], scores({0: RIGHT[0]}))
    cell = table_of(tmp_path, space).rows[0].cells[TASK, "video@1"]
    assert cell.paper == (None if value is None else pytest.approx(value))
    assert show_cell(cell) == "50.0 [25.0]" + ("" if value is None else " (paper 33.5)")


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({}, 0.593),
        ({"policy": "none"}, 0.579),
        ({"policy": "random"}, None),
        ({"train.workers": 2}, 0.593),
        ({"cropper.lower": 0.2}, 0.593),
        ({"cropper.lower": 0.3}, None),
    ],
)
def test_a_published_value_is_shown_only_for_the_papers_settings(settings: dict[str, Any], value: float | None) -> None:
    space = made_space(preset="k400_simclr_s3dg", params={}, variants=[{"label": "a", "set": settings}])
    result = {"numbers": {"name": "paper-linear"}, "dataset": "ucf101"}
    assert paper_value(space, make_trial(space, grid(space)[0]), result, "video@1") == value


def test_pretraining_on_the_evaluation_dataset_is_noted(tmp_path: Path) -> None:
    space = made_space(seeds=[0])
    record = made_trial(tmp_path, space, grid(space)[0], scores({0: RIGHT[0]}))
    same = "the run was pretrained on this same dataset (all videos), without labels"
    assert same not in all_notes(table_of(tmp_path, space))
    run = Path(record.runs[0]["folder"])
    record.results.append(made_result(run, 0, {"video@1": (1, 0)}, "same/linear", content_id=DATA))
    write_record(tmp_path, record)
    assert same in all_notes(table_of(tmp_path, space))
