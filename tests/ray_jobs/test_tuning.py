"""The bridge between Tune and the sweep, without a cluster: the searcher, the scheduler, the division of a cluster."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from optuna.trial import TrialState
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from paramcrop.data.manifest import Manifest
from paramcrop.errors import ResourceError
from paramcrop.evaluation.tasks import Request
from paramcrop.settings.presets import load_config
from paramcrop.storage.mirror import Mirror
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.study import enqueue, open_study
from paramcrop.sweeps.trials import grid
from ray_jobs.engine.plans.plan import Node, Plan
from ray_jobs.engine.plans.sweep import DRIVER_CPUS, plan_sweep
from ray_jobs.engine.trials import trial_run, tuning
from ray_jobs.engine.trials.trial import run_trial
from ray_jobs.engine.trials.tuning import StudySearch, make_scheduler
from ray_jobs.engine.trials.work import Work
from ray_jobs.engine.worker import train_worker

GRID = Space.model_validate({"question": "?", "params": {"cropper.lower": [0.1, 0.3], "cropper.layers": [1, 2]}})


def result(**fields: Any) -> dict[str, Any]:
    return {"objectives": [math.nan], "proxy": math.nan, "epoch": 0, "run": "", "state": "done"} | fields


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    study = open_study(tmp_path, tmp_path.name, GRID)
    enqueue(study, grid(GRID))
    return tmp_path


def states(folder: Path) -> list[TrialState]:
    return [trial.state for trial in open_study(folder, folder.name, GRID).get_trials()]


def test_the_searcher_suggests_each_cell_once_with_flat_keys(folder: Path) -> None:
    search = StudySearch(GRID, folder, folder.name)
    assert [search.suggest(str(i)) for i in range(4)] == grid(GRID)


def test_every_way_to_end_ends_the_trial_in_the_study(folder: Path) -> None:
    search = StudySearch(GRID, folder, folder.name)
    for i in range(4):
        search.suggest(str(i))
        search.on_trial_result(str(i), result(state="running", training_iteration=1))  # without an objective
    search.on_trial_complete("0", result(objectives=[0.25]))
    search.on_trial_complete("1", result(state="diverged"))
    search.on_trial_complete("2", result(state="pruned", objectives=[0.9]))
    search.on_trial_complete("3", error=True)
    search.on_trial_complete("0", result(objectives=[0.75]))  # Tune may call this twice
    assert states(folder) == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED, TrialState.FAIL]
    assert open_study(folder, folder.name, GRID).best_value == 0.25


def test_no_trial_starts_after_the_deadline(folder: Path) -> None:
    search = StudySearch(GRID, folder, folder.name, deadline=time.monotonic() + 60)
    assert search.suggest("0") == grid(GRID)[0]
    assert StudySearch(GRID, folder, folder.name, deadline=time.monotonic() - 1).suggest("1") == Searcher.FINISHED
    assert states(folder).count(TrialState.WAITING) == 3


def test_tune_can_save_the_searchers_state(folder: Path) -> None:
    search = StudySearch(GRID, folder, folder.name)
    search.suggest("0")
    search.save(str(folder / "state.pkl"))
    restored = StudySearch(GRID, folder, folder.name)
    restored.restore(str(folder / "state.pkl"))
    restored.on_trial_complete("0", result(objectives=[0.25]))  # a trial that the other searcher suggested
    assert states(folder) == [TrialState.COMPLETE] + [TrialState.WAITING] * 3


def asha(scheduler: str = "asha") -> Space:
    fields = {"scheduler": scheduler, "proxy": {"every": 2, "grace": 2, "reduction": 2}}
    return Space.model_validate({"question": "?", "params": {"cropper.lower": [0.1]}} | fields)


def test_hyperband_has_a_bracket_for_each_grace_period(tmp_path: Path) -> None:
    assert len(make_scheduler(asha("hyperband"), epochs=16)._brackets) == 4  # 2, 4, 8 and 16 epochs
    assert len(make_scheduler(asha("asha"), epochs=16)._brackets) == 1


def test_the_scheduler_asks_the_worse_run_to_stop_and_kills_none(tmp_path: Path) -> None:
    scheduler: Any = make_scheduler(asha(), epochs=8)
    trials: list[Any] = [SimpleNamespace(trial_id=str(i)) for i in range(4)]
    decisions = []
    for i, trial in enumerate(trials):
        scheduler.on_trial_add(None, trial)
        run = tmp_path / str(i)
        run.mkdir()
        intermediate = result(state="running", epoch=2, proxy=(0.9, 0.8, 0.1, 0.95)[i], run=str(run))
        decisions.append(scheduler.on_trial_result(None, trial, intermediate))
    assert decisions == [TrialScheduler.CONTINUE] * 4
    assert [(tmp_path / str(i) / "stop").exists() for i in range(4)] == [False, True, True, False]
    scheduler.on_trial_complete(None, trials[2], result(state="pruned", epoch=2, proxy=0.1))


def test_a_laptop_runs_one_trial_at_a_time_and_its_evaluator_reserves_no_cpu() -> None:
    plan = plan_sweep([Node(2)], workers=1)
    assert (plan.trials, plan.pretraining.worker_cpus, plan.evaluation.cpus, plan.evaluation.actors) == (1, 0.89, 0, 1)
    assert plan.pretraining.data_cpus >= 1 and "0.89 CPU" in plan.arithmetic


@pytest.mark.parametrize(
    ("nodes", "workers", "trials", "worker_gpus", "evaluators", "share"),
    [
        ([Node(16, 1)], 1, 1, 0.8, 1, 0.2),  # one GPU: trial and evaluator share it
        ([Node(64, 8)], 8, 1, 0.8, 1, 0.2),
        ([Node(64, 8)], 2, 3, 1.0, 2, 1.0),  # the GPUs of a fourth trial go to the evaluators
        ([Node(64, 8)], 3, 2, 1.0, 2, 1.0),
        ([Node(32, 4), Node(32, 4)], 1, 7, 1.0, 1, 1.0),
    ],
)
def test_gpus_are_divided_between_trials_and_evaluators(
    nodes: list[Node], workers: int, trials: int, worker_gpus: float, evaluators: int, share: float
) -> None:
    plan = plan_sweep(nodes, workers)
    found = plan.trials, plan.pretraining.worker_gpus, plan.evaluation.actors, plan.evaluation.gpus
    assert found == (trials, worker_gpus, evaluators, share)
    used = plan.trials * workers * plan.pretraining.worker_gpus + plan.evaluation.actors * plan.evaluation.gpus
    assert used <= sum(node.gpus for node in nodes) + 1e-9
    each = workers * plan.pretraining.worker_cpus + plan.pretraining.data_cpus + DRIVER_CPUS
    cpus = sum(node.cpus for node in nodes)
    assert plan.trials * each + plan.evaluation.actors * plan.evaluation.cpus == pytest.approx(cpus, abs=0.05)


@pytest.mark.parametrize(
    ("nodes", "options", "message"),
    [
        ([Node(2)], {"trials": 2}, "each trial must have one CPU left for decoding, but 1 node"),
        ([Node(16, 2)], {"workers": 4, "device": "cuda"}, "a GPU for each of 4 worker.s., but there are 2"),
        ([Node(4, 8)], {"workers": 1, "trials": 7}, "must fit the cluster, but only 4 do"),
    ],
)
def test_a_sweep_that_does_not_fit_is_an_error_with_the_sums(
    nodes: list[Node], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ResourceError, match=message):
        plan_sweep(nodes, **({"workers": 1} | options))


class Idle:
    """A tuner that runs nothing, and keeps how it was asked to."""

    asked: ClassVar[list[Any]] = []
    results: ClassVar[list[Any]] = []

    def __init__(self, trainable: Any, tune_config: Any, run_config: Any) -> None:
        self.asked.append(tune_config)

    def fit(self) -> list[Any]:
        return self.results


def test_trials_follow_each_other_in_one_process(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A new process would import torch and Ray's libraries for each."""
    monkeypatch.setattr(tuning, "Tuner", Idle)
    monkeypatch.setattr("ray.tune.with_parameters", lambda function, **_: function)
    work: Any = SimpleNamespace(space=GRID, folder=folder, uri="", proxy=None)
    tuning.run_trials(work, folder.name, 4, 2, 1, None)
    assert [(config.reuse_actors, config.max_concurrent_trials) for config in Idle.asked] == [(True, 2)]


def test_a_trial_without_an_outcome_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def ended(i: int, error: Any, state: str | None) -> Any:
        return SimpleNamespace(config=grid(GRID)[i], error=error, metrics={"state": state} if state else None)

    full = RayTaskError("run_trial", "Traceback ...\nOSError: [Errno 28] No space left on device", OSError(28, "full"))
    unseen = RayTaskError("run_trial", "Traceback ...\n(its last line)", ResourceError("all nodes must see"))
    ends = [ended(0, None, "done"), ended(1, RayActorError(), "running"), ended(2, full, None), ended(3, None, None)]
    ends.append(ended(3, unseen, None))
    monkeypatch.setattr(Idle, "results", ends)
    monkeypatch.setattr(tuning, "Tuner", Idle)
    monkeypatch.setattr("ray.tune.with_parameters", lambda function, **_: function)
    work: Any = SimpleNamespace(space=GRID, folder=folder, uri="", proxy=None)
    lost = tuning.run_trials(work, folder.name, 4, 2, 1, None)
    died = "the process of the trial died repeatedly"
    assert [(trial.label, why) for trial, why in lost] == [
        ("lower=0.1, layers=2", died),
        ("lower=0.3, layers=1", "OSError: [Errno 28] No space left on device"),
        ("lower=0.3, layers=2", died),
        ("lower=0.3, layers=2", "all nodes must see"),
    ]


def test_a_node_that_joined_later_and_does_not_see_the_folder_is_refused(tmp_path: Path) -> None:
    """Its results would stay there. ``check_visible`` asks only the nodes that are there before anything begins."""
    plan, pool = Plan(1, 1.0, 0.0, 1.0, ""), list[Any]()
    work = Work(GRID, tmp_path / "sweep", "", str(tmp_path), "", {}, Request((), {}), None, plan, pool)
    with pytest.raises(
        ResourceError, match=r"all nodes must see the folders of .*, but \S+ does not see .*/sweep; use"
    ):
        run_trial(grid(GRID)[0], work)
    with pytest.raises(ResourceError, match=r"does not see .*/run; use a folder that all of them share or a URI"):
        train_worker({"folder": str(tmp_path / "run"), "uri": ""})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["", "s3://bucket/runs/demo-1"])
def test_a_page_is_drawn_while_the_trial_goes_on_except_in_a_bucket(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shards: tuple[str, Manifest], uri: str
) -> None:
    """What a trial fetches from a bucket would remove a page that has not been sent yet."""
    place, looks, at_once, later = Mirror(tmp_path, uri), iter([False, False, True, True]), list[Any](), list[Any]()
    replaced = {
        "find_videos": lambda config: shards,
        "run_place": lambda *_: place,
        "finished": lambda place: next(looks),
        "hold": lambda *_: nullcontext(SimpleNamespace(path="")),
        "begin": lambda *_: None,
        "ending": lambda *_: nullcontext(),
        "newest_checkpoint": lambda *_: (None, []),
        "steps_done": lambda checkpoint: (1, math.inf),  # nothing is left to train
        "refresh_page": at_once.append,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(trial_run, name, value)
    recorder: Any = SimpleNamespace(run=lambda *_: None, doing=lambda text: None)
    pages: Any = SimpleNamespace(submit=lambda function, place: later.append(place))
    work: Any = SimpleNamespace()
    assert trial_run.pretrain(load_config("demo"), False, recorder, work, pages) == place
    assert (at_once, later) == (([place], []) if uri else ([], [place]))
