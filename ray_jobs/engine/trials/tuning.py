"""The trials of a sweep on Ray Tune: who suggests their values, who stops them early, how many run at once.

Three things differ from plain Tune. Its Optuna searcher repeats values, and tells the study nothing of a trial that was
stopped; ``StudySearch`` asks the sweep's own study for new values and tells it how every trial ended. Its scheduler
decides which trial stops, but the run is asked to stop and ends with a checkpoint after its epoch, where Tune would
kill it (``AskToStop``). And an interrupted sweep is not restored from Tune's state: a new one starts from the files.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import ray.exceptions
import ray.tune
from ray.tune import FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from paramcrop.errors import DataError
from paramcrop.storage.files import open_folder
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import ask_to_stop
from paramcrop.sweeps.objective import goals
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.study import FILE, draw, open_study, tell
from paramcrop.sweeps.trials import Trial, decode, make_trial
from ray_jobs.engine.plans.sweep import DRIVER_CPUS
from ray_jobs.engine.train import own_error
from ray_jobs.engine.trials.trial import run_trial
from ray_jobs.engine.trials.work import Work

RESTARTS = 2  # restarts of a trial whose process died
QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the run folders have these logs
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command; finished work is in the folders
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # rarely, because nothing is restored from it
    "RAY_AIR_NEW_OUTPUT": "0",
}


class StudySearch(Searcher):
    """Tune's searcher on the sweep's own study: what is tried next, and how each trial ended.

    Args:
        name: of the study in ``folder``. deadline: on the monotonic clock; no trial starts after it.
        told: called whenever the study has changed.
    """

    def __init__(
        self,
        space: Space,
        folder: Path,
        name: str,
        deadline: float | None = None,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._space, self._folder, self._name, self._deadline = space, folder, name, deadline
        self._told = told
        self._numbers: dict[str, int] = {}  # Tune's id of a running trial -> its number in the study
        self._study: optuna.Study | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_study": None, "_told": _nothing}  # Tune saves its searcher, but nothing restores it

    def _opened(self) -> optuna.Study:
        self._study = self._study or open_study(self._folder, self._name, self._space)
        return self._study

    def suggest(self, trial_id: str) -> Any:
        if self._deadline is not None and time.monotonic() > self._deadline:
            return Searcher.FINISHED
        trial = draw(self._opened(), self._space)
        if trial is None:  # all values that there are have been drawn
            return Searcher.FINISHED
        self._numbers[trial_id] = trial.number
        self._told()
        return dict(trial.params)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Ignore intermediate results: the study gets none, because the scheduler alone decides on pruning."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self._numbers.pop(trial_id, None)
        if number is None:  # Tune may call this twice for one trial, but a study accepts one result only
            return
        state = "failed" if error or not result else str(result["state"])
        tell(self._opened(), number, state, result["objectives"] if result else [])
        self._told()

    def save(self, checkpoint_path: str) -> None:
        """Tune's file of the searcher's state: the numbers of running trials. The rest is in the study."""
        Path(checkpoint_path).write_text(json.dumps(self._numbers))

    def restore(self, checkpoint_path: str) -> None:
        self._numbers = json.loads(Path(checkpoint_path).read_text())


def _nothing() -> None:
    pass


class AskToStop(ASHAScheduler):
    """ASHA on ``epoch`` and ``proxy`` that asks a run to stop, by a file in its folder, and never kills it."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = super().on_trial_result(tune_controller, trial, result)
        # Let Tune continue the trial: it ends by itself after the run's epoch, and its last report has state "pruned".
        if decision == TrialScheduler.STOP and result["state"] == "running":
            ask_to_stop(result["run"])
            return str(TrialScheduler.CONTINUE)
        return decision


def make_scheduler(space: Space, epochs: int) -> ASHAScheduler:
    """ASHA, or with hyperband as many of its brackets as there are grace periods below ``epochs``."""
    proxy = space.proxy
    mode = next((goal.mode for goal in goals(space) if goal.protocol), "max")
    rungs = int(math.log(max(1.0, epochs / proxy.grace), proxy.reduction)) + 1
    return AskToStop(
        time_attr="epoch",
        metric="proxy",
        mode=mode,
        max_t=epochs,
        grace_period=min(proxy.grace, epochs),
        reduction_factor=proxy.reduction,
        brackets=rungs if space.scheduler == "hyperband" else 1,
    )


def run_trials(
    work: Work, study: str, count: int, at_once: int, epochs: int, deadline: float | None
) -> list[tuple[Trial, str]]:
    """Run ``count`` trials, ``at_once`` at a time; each outcome is in the trial's record.

    Args:
        study: name of the study. epochs: epochs of a full pretraining.
        deadline: on the monotonic clock; after it, running trials are finished and no other starts.

    Returns:
        The trials that ended without an outcome, and why.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    place = Mirror(work.folder, work.uri)
    trainable: Any = ray.tune.with_resources(ray.tune.with_parameters(run_trial, work=work), {"cpu": DRIVER_CPUS})
    scheduler = make_scheduler(work.space, epochs) if work.proxy else None
    tuner = Tuner(
        trainable,
        tune_config=TuneConfig(
            num_samples=count,
            max_concurrent_trials=at_once,
            reuse_actors=True,  # a new process for each trial would import torch and Ray's libraries anew
            search_alg=StudySearch(work.space, work.folder, study, deadline, partial(send_study, place)),
            scheduler=scheduler,
        ),
        run_config=RunConfig(
            name=f"{time.time_ns()}",
            storage_path=f"{place}/tune",  # every node writes there
            failure_config=FailureConfig(max_failures=RESTARTS),
            verbose=0,
        ),
    )
    try:
        results: Any = tuner.fit()
    finally:
        _remove(f"{place}/tune")
    lost = [result for result in results if result.error or (result.metrics or {}).get("state", "running") == "running"]
    return [(make_trial(work.space, decode(work.space, one.config)), reason_of(one.error)) for one in lost]


def reason_of(error: BaseException | str | None) -> str:
    """One line that says why a trial ended without an outcome.

    Args:
        error: what Tune kept of it; None: nothing.
    """
    if error is None or isinstance(error, ray.exceptions.RayActorError):
        return "the process of the trial died repeatedly"
    known = None if isinstance(error, str) else own_error(error)
    return str(known) if known else str(error).strip().splitlines()[-1]


def send_study(place: Mirror) -> None:
    """Send the study to the sweep's bucket; if that fails, the next change sends it."""
    with suppress(OSError, DataError):
        place.send(FILE, waits=())


def _remove(folder: str) -> None:
    with suppress(OSError, DataError):
        fs, path = open_folder(folder)
        fs.delete_dir(path)
