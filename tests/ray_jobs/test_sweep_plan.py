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
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import write_status
from paramcrop.sweeps.record import TrialRecorder, read_record, write_record
from paramcrop.sweeps.space import Space, space_at
from paramcrop.sweeps.trials import make_trial
from ray_jobs.engine.tuning import StudySearch
from ray_jobs.sweep.dry_run import describe
from ray_jobs.sweep.plan import Sweep, open_sweep
from tests.labelled import make_labelled

GRID: dict[str, Any] = {"question": "?", "params": {"cropper.lower": [0.1, 0.3]}, "seeds": [0]}
SEARCH = {"search": "tpe", "samples": 2, "params": {"cropper.lower": {"uniform": [0.0, 0.4]}}}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_labelled(tmp_path_factory.mktemp("shards"))


def open_(folder: Path, shards: str, **fields: Any) -> Sweep:
    space = Space.model_validate(GRID | {"set": {"data.shards": shards}} | fields)
    return open_sweep(folder, space, {"small": shards})


def carry_out(sweep: Sweep, state: str = "done") -> list[dict[str, Any]]:
    """Ask for the remaining trials as Tune does, and write their records -> the values suggested."""
    suggested, todo = [], sweep.todo()
    search = StudySearch(sweep.space, sweep.folder) if todo else None
    for i in range(todo):
        assert search is not None
        trial = make_trial(sweep.space, search.suggest(str(i)))
        recorder = TrialRecorder(sweep.folder, trial, sweep.wanted(trial))
        folder = sweep.folder.parent / f"run-{trial.id}"
        folder.mkdir(exist_ok=True)
        write_status(folder, "finished")
        recorder.run(0, Mirror(folder), "finished")
        recorder.end(state)
        search.on_trial_complete(str(i), {"state": state, "objective": 0.5})
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
    sweep = open_sweep(tmp_path / "a", with_stand_in(space_at(paper_space(paper, "table6")), "synthetic"), {})
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
