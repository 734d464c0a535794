"""What remains of a sweep: nothing of a finished one, and only what is new when its file has grown."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from paramcrop.data.manifest import read_manifest, write_manifest
from paramcrop.errors import ParamCropError
from paramcrop.paper.spaces import paper_space, with_stand_in
from paramcrop.paper.tables import read_paper
from paramcrop.report.table import make_table
from paramcrop.report.text import all_notes
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import write_status
from paramcrop.sweeps.record import TrialRecorder, read_record, read_records, write_record
from paramcrop.sweeps.space import Space, space_at
from paramcrop.sweeps.trials import make_trial
from ray_jobs.engine.trials.tuning import StudySearch
from ray_jobs.sweep.dry_run import describe
from ray_jobs.sweep.plan import Sweep, open_sweep
from ray_jobs.sweep.seeds import standings_of, with_known_seeds, with_more_seeds
from tests.labelled import make_labelled
from tests.sweeps.made import made_result, made_run, made_trial

GRID: dict[str, Any] = {"question": "?", "params": {"cropper.lower": [0.1, 0.3]}, "seeds": [0]}
SEARCH = {"search": "tpe", "samples": 2, "params": {"cropper.lower": {"uniform": [0.0, 0.4]}}}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_labelled(tmp_path_factory.mktemp("shards"))


def open_(folder: Path, shards: str, **fields: Any) -> Sweep:
    space = Space.model_validate(GRID | {"set": {"data.shards": shards}} | fields)
    return open_sweep(Mirror(folder), space, {"small": shards})


def carry_out(sweep: Sweep, state: str = "done") -> list[dict[str, Any]]:
    """Ask for the remaining trials as Tune does, and write their records -> the values suggested."""
    suggested, todo = [], sweep.todo()
    search = StudySearch(sweep.space, sweep.folder, sweep.study_name) if todo else None
    for i in range(todo):
        assert search is not None
        trial = make_trial(sweep.space, search.suggest(str(i)))
        recorder = TrialRecorder(sweep.place, trial, sweep.wanted(trial))
        folder = sweep.folder.parent / f"run-{trial.id}"
        folder.mkdir(exist_ok=True)
        write_status(folder, "finished")
        recorder.run(0, Mirror(folder), "finished")
        recorder.end(state)
        search.on_trial_complete(str(i), {"state": state, "objectives": [0.5]})
        suggested.append(trial.values)
    return suggested


def test_finished_trials_are_not_repeated_and_a_longer_list_adds_only_new_ones(tmp_path: Path, shards: str) -> None:
    folder = tmp_path / "a"
    assert carry_out(open_(folder, shards)) == [{"cropper.lower": 0.1}, {"cropper.lower": 0.3}]
    assert carry_out(open_(folder, shards)) == []
    longer = {"params": {"cropper.lower": [0.0, 0.1, 0.2, 0.3]}}
    assert carry_out(open_(folder, shards, **longer)) == [{"cropper.lower": 0.0}, {"cropper.lower": 0.2}]
    assert carry_out(open_(folder, shards, **longer)) == []


@pytest.mark.parametrize("more", [{"seeds": [0, 1]}, {"evaluate": {"tasks": ["validation", "knn"]}}])
def test_more_seeds_or_tasks_repeat_every_cell(tmp_path: Path, shards: str, more: dict[str, Any]) -> None:
    """The trial of a cell finds its finished runs and results."""
    folder = tmp_path / "a"
    assert len(carry_out(open_(folder, shards))) == len(carry_out(open_(folder, shards, **more))) == 2
    assert carry_out(open_(folder, shards, **more)) == []


def test_more_samples_continue_the_search(tmp_path: Path, shards: str) -> None:
    folder = tmp_path / "a"
    first = carry_out(open_(folder, shards, **SEARCH))
    second = carry_out(open_(folder, shards, **SEARCH | {"samples": 5}))
    assert (len(first), len(second)) == (2, 3)
    assert len({trial["cropper.lower"] for trial in first + second}) == 5
    states = {trial.state for trial in open_(folder, shards, **SEARCH).study().get_trials()}
    assert states == {TrialState.COMPLETE}


def compared(tmp_path: Path, shards: str, apart: float, seeds: int) -> Sweep:
    """A sweep that compares two trials, with results of some seeds that are ``apart``."""
    until = {"resolved": ["lower=0.1", "lower=0.3"], "most_seeds": 6}
    sweep = open_(tmp_path / "a", shards, until=until, seeds=[0, 1])
    for i, trial in enumerate(sweep.trials):
        score = {
            s: {"R@1": [1.0] * (20 + s + round(apart * i)) + [0.0] * (80 - s - round(apart * i))} for s in range(seeds)
        }
        record = made_trial(sweep.folder, sweep.space, trial.values, {})
        for seed, of in score.items():
            run = made_run(tmp_path / "runs" / f"{trial.id}-{seed}", sweep.space, trial.values, seed)
            record.runs.append({"seed": seed, "folder": str(run), "state": "finished", "error": ""})
            record.results.append(made_result(run, seed, of, "small/validation"))
        write_record(sweep.folder, record)
    return with_known_seeds(sweep)


def test_seeds_are_added_one_at_a_time_up_to_the_most(tmp_path: Path, shards: str) -> None:
    sweep = compared(tmp_path, shards, apart=0, seeds=3)
    assert [sweep.space.seeds_of(trial.id) for trial in sweep.trials] == [(0, 1, 2)] * 2
    wanted = sweep.wanted(sweep.trials[0])
    found = with_more_seeds(sweep)
    assert found is not None
    more, pair = found
    assert (pair.seeds, pair.resolved) == (3, False)
    assert [more.space.seeds_of(trial.id) for trial in more.trials] == [(0, 1, 2, 3)] * 2
    assert more.wanted(more.trials[0]) != wanted and more.study_name == sweep.study_name
    assert with_more_seeds(more) is None  # the fourth seed has failed: no fifth
    assert with_more_seeds(compared(tmp_path / "six", shards, apart=0, seeds=6)) is None


def test_a_resolved_comparison_needs_no_more_seeds(tmp_path: Path, shards: str) -> None:
    sweep = compared(tmp_path, shards, apart=40, seeds=5)
    (pair,) = standings_of(sweep)
    assert pair.resolved and pair.value == pytest.approx(-0.4) and with_more_seeds(sweep) is None
    assert any("5 seeds, resolved" in line for line in all_notes(make_table(sweep.space, read_records(sweep.folder))))


CELLS: dict[str, Any] = {
    "params": {"cropper.noise": {"choice": ["normal", "uniform"]}, "cropper.layers": {"int": [1, 3]}},
    "search": "random",
}


@pytest.mark.parametrize("samples", [6, 9])
def test_a_search_of_six_cells_is_six_trials_and_then_nothing(tmp_path: Path, shards: str, samples: int) -> None:
    folder, fields = tmp_path / "a", CELLS | {"samples": samples}
    trials = carry_out(open_(folder, shards, **fields))
    assert len({str(values) for values in trials}) == 6 == len(trials)
    assert carry_out(open_(folder, shards, **fields)) == [] == open_(folder, shards, **fields).unfinished()


def test_another_objective_is_another_study_with_the_trials_that_are_done(tmp_path: Path, shards: str) -> None:
    folder, fields = tmp_path / "a", CELLS | {"samples": 2}
    trials = carry_out(open_(folder, shards, **fields))
    least = open_(folder, shards, **fields | {"objective": {"mode": "min"}})
    assert least.study_name != open_(folder, shards, **fields).study_name
    assert [trial.values for trial in least.trials] == trials and carry_out(least) == []
    more = open_(folder, shards, **fields | {"objective": {"mode": "min"}, "samples": 4})
    assert len(carry_out(more)) == 2
    study = more.study()
    assert study.direction.name == "MINIMIZE" and len(study.get_trials(states=(TrialState.COMPLETE,))) >= 2


def test_other_settings_begin_another_search(tmp_path: Path, shards: str) -> None:
    folder, fields = tmp_path / "a", CELLS | {"samples": 2}
    carry_out(open_(folder, shards, **fields))
    other = open_(folder, shards, **fields | {"set": {"data.shards": shards, "optim.lr": 0.1}})
    assert other.trials == [] and len(carry_out(other)) == 2


def test_a_trial_that_failed_or_lost_its_run_is_repeated(tmp_path: Path, shards: str) -> None:
    folder = tmp_path / "a"
    assert carry_out(open_(folder, shards), state="failed") == carry_out(open_(folder, shards))
    (gone := next(tmp_path.glob("run-*")) / "status.json").unlink()
    assert len(carry_out(open_(folder, shards))) == 1 and gone.exists()


def test_a_trial_whose_videos_failed_by_time_is_evaluated_again(tmp_path: Path, shards: str) -> None:
    sweep = open_(tmp_path / "a", shards)
    carry_out(sweep)
    record = read_record(sweep.folder, sweep.trials[0].id)
    assert record is not None and sweep.todo() == 0
    record.again = 2
    write_record(sweep.folder, record)
    assert sweep.todo() == 1 and " lower=0.1: done, but 2 videos are to be read again" in describe(sweep, None, None)


def test_a_budget_of_trials_applies_to_each_command(tmp_path: Path, shards: str) -> None:
    folder, most = tmp_path / "a", {"budget": {"trials": 1}}
    assert carry_out(open_(folder, shards, **most)) == [{"cropper.lower": 0.1}]
    assert carry_out(open_(folder, shards, **most)) == [{"cropper.lower": 0.3}]
    assert carry_out(open_(folder, shards, **most)) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"evaluate": {"tasks": ["small/teacher"]}}, "only a run with method=mean_teacher has a classifier to test"),
        (
            {"evaluate": {"tasks": ["knn"], "set": {"neighbours": 41}}},
            "knn needs 41 training videos, but split train has",
        ),
        ({"evaluate": {"tasks": ["retrieval"]}}, "needs 50 training videos for R@50, but searches 40"),
        (
            {"set": {"method": "mean_teacher"}, "evaluate": {"tasks": ["teacher"]}},
            "it was trained on all 56 of its dataset",
        ),
    ],
)
def test_an_evaluation_that_cannot_be_is_an_error_before_anything_is_pretrained(
    tmp_path: Path, shards: str, fields: dict[str, Any], message: str
) -> None:
    settings = {"data.shards": shards, **fields.get("set", {})}
    sweep = open_(tmp_path / "a", shards, **fields | {"set": settings})
    with pytest.raises(ParamCropError, match=message):
        sweep.todo()
    assert not (tmp_path / "a").exists()


def test_the_classifiers_of_a_demo_are_pretrained_on_what_stands_in_for_their_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARAMCROP_HOME", str(tmp_path))
    paper = read_paper()
    assert paper is not None
    sweep = open_sweep(Mirror(tmp_path / "a"), with_stand_in(space_at(paper_space(paper, "table6")), "synthetic"), {})
    sweep.check()
    assert (
        sweep.videos.content_id == read_manifest(sweep.data["synthetic"]).content_id
        and sweep.config.data.split == "train"
    )


def test_clips_that_enlarge_the_videos_are_warned_of(tmp_path: Path, shards: str) -> None:
    prepared = replace(read_manifest(shards), settings={"short_side": 32})
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    write_manifest(prepared, str(copy))
    settings = {"data.shards": str(copy), "data.clip_size": 32, "data.random_cube": True}
    sweep = open_(tmp_path / "a", str(copy), set=settings, evaluate={"tasks": ["knn"]})
    assert [line.partition(", because")[0] for line in sweep.warnings] == [
        "warning: pretraining: clips of 32 x 32 pixels are enlarged from 28 x 28",
        "warning: small/knn: clips of 224 x 224 pixels are enlarged from 28 x 28",
    ]
