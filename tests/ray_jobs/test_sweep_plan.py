"""What remains of a sweep: nothing of a finished one, and only what is new when its file has grown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import write_status
from paramcrop.sweeps.record import TrialRecorder
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import make_trial
from ray_jobs.engine.tuning import StudySearch
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


def test_a_budget_of_trials_applies_to_each_command(tmp_path: Path, shards: str) -> None:
    folder, most = tmp_path / "a", {"budget": {"trials": 1}}
    assert carry_out(open_(folder, shards, **most)) == [{"cropper.lower": 0.1}]
    assert carry_out(open_(folder, shards, **most)) == [{"cropper.lower": 0.3}]
    assert carry_out(open_(folder, shards, **most)) == []
