"""The trials of a sweep on Ray Tune: who suggests their values, who stops them early, how many run at once.

Three things differ from plain Tune. Its Optuna searcher suggests values, but we tell the study how a stopped trial or
one without an objective ended (``StudySearch``). Its scheduler decides which trial stops, but the run is asked to stop
and ends with a checkpoint after its epoch, where Tune would kill it (``AskToStop``). And an interrupted sweep is not
restored from Tune's state: a new one starts from the files.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import ray.tune
from ray.tune import FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from paramcrop.storage.stop import ask_to_stop
from paramcrop.sweeps.space import Proxy, Space
from paramcrop.sweeps.study import distributions, drawn_values, make_sampler, open_study, storage, study_name, tell
from ray_jobs.engine.plan import DRIVER_CPUS
from ray_jobs.engine.ray_private import number_of, study_of
from ray_jobs.engine.trial import run_trial
from ray_jobs.engine.work import Work

RESTARTS = 2  # restarts of a trial whose process died
QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the run folders have these logs
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command; finished work is in the folders
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # rarely, because nothing is restored from it
    "RAY_AIR_NEW_OUTPUT": "0",
}


class StudySearch(OptunaSearch):
    """Tune's Optuna searcher on the sweep's own study.

    Args:
        deadline: on the monotonic clock; no trial starts after it.
    """

    def __init__(self, space: Space, folder: Path, deadline: float | None = None) -> None:
        super().__init__(
            space=distributions(space),
            metric="objective",
            mode=space.objective.mode,
            study_name=study_name(folder.name, space),
            storage=storage(folder),
            sampler=make_sampler(space, 0),
        )
        self._space_file, self._folder, self._deadline = space, folder, deadline
        self._numbers: dict[str, int] = {}  # Tune's id of a running trial -> its number in the study

    def suggest(self, trial_id: str) -> Any:
        if self._deadline is not None and time.monotonic() > self._deadline:
            return Searcher.FINISHED
        found = study_of(self)
        study = found or self._opened
        study.sampler = make_sampler(self._space_file, len(drawn_values(study, self._space_file)))
        if found is None:
            trial = study.ask(distributions(self._space_file))
            self._numbers[trial_id] = trial.number
            return dict(trial.params)
        values = super().suggest(trial_id)
        self._numbers[trial_id] = number_of(self, trial_id)
        return values

    @cached_property
    def _opened(self) -> optuna.Study:
        """The same study, for a version of Ray whose searcher hides its own."""
        return open_study(self._folder, self._folder.name, self._space_file)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Ignore intermediate results: the study gets none, because the scheduler alone decides on pruning."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self._numbers.pop(trial_id, None)
        if number is None:  # Tune may call this twice for one trial, but a study accepts one result only
            return
        state = "failed" if error or not result else str(result["state"])
        tell(study_of(self) or self._opened, number, state, float(result["objective"]) if result else 0.0)


class AskToStop(ASHAScheduler):
    """ASHA on ``epoch`` and ``proxy`` that asks a run to stop, by a file in its folder, and never kills it."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = super().on_trial_result(tune_controller, trial, result)
        # Let Tune continue the trial: it ends by itself after the run's epoch, and its last report has state "pruned".
        if decision == TrialScheduler.STOP and result["state"] == "running":
            ask_to_stop(result["run"])
            return str(TrialScheduler.CONTINUE)
        return decision


def make_scheduler(proxy: Proxy, mode: str, epochs: int) -> ASHAScheduler:
    return AskToStop(
        time_attr="epoch",
        metric="proxy",
        mode=mode,
        max_t=epochs,
        grace_period=min(proxy.grace, epochs),
        reduction_factor=proxy.reduction,
    )


def run_trials(work: Work, count: int, at_once: int, epochs: int, deadline: float | None) -> None:
    """Run ``count`` trials, ``at_once`` at a time; each outcome is in the trial's record.

    Args:
        epochs: epochs of a full pretraining.
        deadline: on the monotonic clock; after it, running trials are finished and no other starts.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    trainable: Any = ray.tune.with_resources(ray.tune.with_parameters(run_trial, work=work), {"cpu": DRIVER_CPUS})
    scheduler = make_scheduler(work.space.proxy, work.space.objective.mode, epochs) if work.proxy else None
    tuner = Tuner(
        trainable,
        tune_config=TuneConfig(
            num_samples=count,
            max_concurrent_trials=at_once,
            search_alg=StudySearch(work.space, work.folder, deadline),
            scheduler=scheduler,
        ),
        run_config=RunConfig(
            name=f"{time.time_ns()}",
            storage_path=str(work.folder / "tune"),
            failure_config=FailureConfig(max_failures=RESTARTS),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(work.folder / "tune", ignore_errors=True)
