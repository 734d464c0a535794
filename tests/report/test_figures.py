from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes

from paramcrop.report.figures import draw
from paramcrop.report.panels import by_label, main_metric, over_key, places_of
from paramcrop.report.table import Table, make_table
from paramcrop.sweeps.record import TrialRecord, read_records, write_record
from paramcrop.sweeps.samplers import make_sampler
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.study import asked, distributions, open_study, tell
from paramcrop.sweeps.trials import decode, grid, make_trial
from tests.report.test_plots import made_crops
from tests.report.test_table import OTHER, RIGHT, made_space, scores, table_of
from tests.sweeps.made import made_result, made_run, made_trial, write_space


def names(pictures: list[Any]) -> list[str]:
    assert all(picture.file.stat().st_size > 1000 and picture.caption for picture in pictures)
    return [picture.file.name for picture in pictures]


def swept(folder: Path, **fields: Any) -> Table:
    """A grid in which every trial has three seeds."""
    space = made_space(**fields)
    write_space(folder, space)
    for i, values in enumerate(grid(space)):
        made_trial(folder, space, values, scores((OTHER, RIGHT)[i % 2]))
    return table_of(folder, space)


def drawn_over(table: Table, key: str) -> Axes:
    _, axes = plt.subplots()
    over_key(axes, table, key, main_metric(table.tasks[0]))
    return axes


def test_a_curve_has_a_point_with_an_interval_per_trial(tmp_path: Path) -> None:
    table = swept(tmp_path / "sweep", show="curve", derived={"cropper.upper": "1 - cropper.lower"})
    axes = drawn_over(table, "cropper.lower")
    line = axes.get_lines()[0]
    assert np.asarray(line.get_xdata()).tolist() == [0.0, 0.1, 0.2, 0.3]
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([100 / 3, 75, 100 / 3, 75])
    assert np.asarray(axes.get_lines()[-1].get_ydata()).tolist() == [12.5, 12.5]  # chance for 8 classes
    bars = [segment for bar in axes.containers for segment in bar[2][0].get_segments()]
    half = table.rows[1].cells["made-up/paper-linear", "video@1"].mean.half
    assert len(bars) == 4 and half is not None
    assert bars[1][:, 1].tolist() == pytest.approx([75 - 100 * half, 75 + 100 * half])
    assert axes.get_xlabel() == "cropper.lower\n(cropper.upper = 1 - cropper.lower)"
    plt.close("all")
    assert names(draw(table, tmp_path / "sweep")) == ["curve.png", "distance.png", "figure5.png"]


def test_two_seeds_are_drawn_as_dots_without_error_bars(tmp_path: Path) -> None:
    space = made_space(seeds=[0, 1], params={"cropper.lower": [0.1]})
    made_trial(tmp_path, space, grid(space)[0], scores({0: RIGHT[0], 1: RIGHT[1]}))
    axes = drawn_over(table_of(tmp_path, space), "cropper.lower")
    assert not axes.containers and np.asarray(axes.get_lines()[1].get_ydata()).tolist() == [50, 75]
    plt.close("all")


def test_each_setting_has_a_panel_with_a_line_per_combination_of_the_others(tmp_path: Path) -> None:
    params = {"cropper.lower": [0.1, 0.2], "cropper.noise": ["normal", "uniform"]}
    table = swept(tmp_path / "sweep", show="curve", params=params)
    axes = drawn_over(table, "cropper.lower")
    assert axes.get_legend_handles_labels()[1] == ["noise=normal", "noise=uniform"]
    at = [
        np.asarray(line.get_xdata())
        for line in axes.get_lines()
        if line.get_label() in ("noise=normal", "noise=uniform")
    ]
    assert (at[0] < at[1]).all() and np.abs(at[1] - [0.1, 0.2]).max() < 0.001  # the error bars do not overlap
    assert places_of(table, "cropper.noise") == {
        "normal": 0,
        "uniform": 1,
    }  # values that are not numbers are placed at 0, 1, …
    assert [text.get_text() for text in drawn_over(table, "cropper.noise").get_xticklabels()] == ["normal", "uniform"]
    plt.close("all")
    draw(table, tmp_path / "sweep")
    height, width, _ = matplotlib.image.imread(tmp_path / "sweep" / "figures" / "curve.png").shape
    assert height > width  # one panel below the other


def test_too_many_combinations_are_drawn_as_points(tmp_path: Path) -> None:
    params = {"cropper.lower": [0.1, 0.2], "cropper.lr": [0.001 * (i + 1) for i in range(7)]}
    space = made_space(show="curve", params=params, seeds=[0])
    for values in grid(space):
        made_trial(tmp_path, space, values, scores({0: RIGHT[0]}))
    table = table_of(tmp_path, space)
    over_lower, over_rate = (drawn_over(table, key).get_lines() for key in params)
    assert [line.get_linestyle() for line in over_lower] == ["None", ":"]  # points, and chance
    assert len(np.asarray(over_lower[0].get_xdata())) == 14
    assert [line.get_linestyle() for line in over_rate] == ["-", "-", ":"]
    plt.close("all")


def test_a_table_is_drawn_with_labels_and_the_papers_values(tmp_path: Path) -> None:
    variants = [
        {"label": n, "set": {"cropper.lower": v}, "paper": {"linear video@1": 50}} for n, v in (("a", 0.1), ("b", 0.2))
    ]
    table = swept(tmp_path / "sweep", params={}, variants=variants)
    _, axes = plt.subplots()
    by_label(axes, table.rows, main_metric(table.tasks[0]), labelled=True)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
    marks = [np.asarray(line.get_xdata()).item() for line in axes.get_lines() if line.get_marker() in ("o", "D")]
    assert marks == pytest.approx([100 / 3, 50, 75, 50])
    plt.close("all")
    assert names(draw(table, tmp_path / "sweep")) == ["trials.png", "figure5.png"]


def test_crops_are_drawn_for_runs_that_saved_them(tmp_path: Path) -> None:
    table = swept(tmp_path / "sweep", show="crops", params={"cropper.lower": [0.1, 0.2]})
    assert "crops.png" not in names(draw(table, tmp_path / "sweep"))
    for row in table.rows:
        made_crops(row.runs[0].folder)
    assert names(draw(table, tmp_path / "sweep")) == ["trials.png", "crops.png", "figure5.png"]


def test_a_sweep_without_results_has_no_pictures(tmp_path: Path) -> None:
    assert draw(make_table(made_space(), []), tmp_path) == []


def searched(folder: Path, complete: int) -> Space:
    """A search with ``complete`` trials that have an objective, one that was stopped and one that is running."""
    params: dict[str, Any] = {"cropper.lower": {"uniform": [0, 0.5]}, "cropper.lr": {"loguniform": [0.001, 0.1]}}
    params |= {"cropper.hidden": {"choice": [16, 64]}}
    evaluate = {"tasks": ["validation"]}
    space = made_space(params=params, evaluate=evaluate, search="random", samples=20, seeds=[0])
    study = open_study(write_space(folder, space), folder.name, space)
    asked(study, space)
    rng = np.random.default_rng(0)
    for i in range(complete + 2):
        study.sampler = make_sampler(space, i)
        suggested = study.ask(distributions(space))
        trial = make_trial(space, decode(space, suggested.params))
        record = TrialRecord(trial.id, trial.label, trial.values, "", started=i, state="running" if i else "pruned")
        if i == 0:
            tell(study, suggested.number, "pruned", [])
        elif i <= complete:
            run = made_run(folder.parent / "runs" / trial.id, space, trial.values, 0)
            right = (rng.random(50) < 0.2 + trial.values["cropper.lower"]).astype(float).tolist()
            record.results = [made_result(run, 0, {"R@1": right}, "made-up/validation")]
            record.runs = [{"seed": 0, "folder": str(run), "state": "finished", "error": ""}]
            record.state, record.objectives = "done", [float(np.mean(right))]
            tell(study, suggested.number, "done", [float(np.mean(right))])
        write_record(folder, record)
    return space


def test_two_objectives_are_drawn_as_a_front_and_each_by_itself(tmp_path: Path) -> None:
    objective = [{"metric": "validation R@1"}, {"metric": "gpu_hours", "mode": "min"}]
    params = {"cropper.lower": {"uniform": [0, 0.5]}, "cropper.hidden": {"choice": [16, 64]}}
    fields = {"search": "nsga2", "samples": 14, "objective": objective, "seeds": [0]}
    space = made_space(params=params, evaluate={"tasks": ["validation"]}, **fields)
    folder = write_space(tmp_path / "sweep", space)
    study = open_study(folder, "sweep-1-2", space)
    asked(study, space)
    for i in range(14):
        study.sampler = make_sampler(space, i)
        trial = study.ask(distributions(space))
        good = trial.params["cropper.lower"]
        tell(study, trial, "done", [0.2 + good, 1.0 + good**2 + 0.05 * (i % 3)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures = draw(make_table(space, []), folder)
    each = [f"{kind}{i}.png" for i in (1, 2) for kind in ("slice", "parallel", "importance", "history")]
    assert names(pictures) == ["front.png", *each]
    assert "how much of it is noise is unknown" in pictures[3].caption.lower()
    assert "gpu hours" in pictures[7].caption and "noise" not in pictures[7].caption


def test_a_search_is_drawn_by_optuna_without_changing_the_style_of_other_pictures(tmp_path: Path) -> None:
    space = searched(tmp_path / "sweep", complete=15)
    style = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures = draw(make_table(space, read_records(tmp_path / "sweep")), tmp_path / "sweep")
    assert names(pictures) == ["slice.png", "parallel.png", "importance.png", "history.png", "trials.png"]
    assert dict(matplotlib.rcParams) == style and not plt.get_fignums()


@pytest.mark.parametrize(
    ("complete", "drawn"),
    [
        (0, []),
        (1, ["trials.png", "figure5.png"]),
        (2, ["slice.png", "parallel.png", "history.png", "trials.png", "figure5.png"]),
    ],
)
def test_too_few_trials_have_no_importances(tmp_path: Path, complete: int, drawn: list[str]) -> None:
    space = searched(tmp_path / "sweep", complete)
    assert names(draw(make_table(space, read_records(tmp_path / "sweep")), tmp_path / "sweep")) == drawn


def test_a_search_without_its_study_is_drawn_without_it(tmp_path: Path) -> None:
    space = searched(tmp_path / "sweep", complete=3)
    (tmp_path / "sweep" / "study.journal").unlink()
    pictures = draw(make_table(space, read_records(tmp_path / "sweep")), tmp_path / "sweep")
    assert names(pictures) == ["trials.png", "figure5.png"]
    assert not (tmp_path / "sweep" / "study.journal").exists()


def test_trials_may_be_called_anything(tmp_path: Path) -> None:
    variants = [{"label": "a$^$", "set": {"cropper.noise": "normal"}}, {"label": "$5, $\\frac$", "set": {}}]
    table = swept(tmp_path / "sweep", params={}, variants=variants, show="table")
    assert "trials.png" in names(draw(table, tmp_path / "sweep"))
