"""What every trial of a sweep is given, and what it tells Ray Tune."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.tune

from paramcrop.evaluation.tasks import Request, only
from paramcrop.sweeps.record import TrialRecorder
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import Trial, wanted_of
from ray_jobs.engine.plan import Plan


@dataclass(frozen=True)
class Work:
    """What every trial of a sweep is given.

    Attributes:
        folder: the sweep's. content_id: of the videos that runs are pretrained on. contents: of those evaluated on.
        request: the evaluations of all trials. proxy: the one that trials are compared by while they train, if any.
        plan: one trial's share of the cluster. pool: of evaluators, for all.
    """

    space: Space
    folder: Path
    content_id: str
    contents: Mapping[str, str]
    request: Request
    proxy: Request | None
    plan: Plan
    pool: Sequence[Any]

    def request_for(self, trial: Trial) -> Request:
        """The evaluations of a trial's runs."""
        return only(self.request, trial.tasks or self.space.evaluate.tasks)

    def wanted(self, trial: Trial) -> str:
        """What a trial's record must say for it to be done."""
        tasks = [(self.contents[name], protocol) for name, protocol in self.request_for(trial).tasks]
        return wanted_of(self.space, trial, self.content_id, tasks)


def report(recorder: TrialRecorder, run: str, state: str) -> None:
    """To Tune; every report has the same keys, for both its searcher and its scheduler insist on theirs."""
    record = recorder.record
    values = {"objective": record.objective, "proxy": record.proxy}
    numbers = {name: math.nan if value is None else value for name, value in values.items()}
    ray.tune.report(numbers | {"epoch": record.epoch, "run": run, "state": state})
