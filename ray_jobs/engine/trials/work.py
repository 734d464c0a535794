"""What all trials of a sweep share, and what a trial reports to Ray Tune."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.tune

from paramcrop.evaluation.tasks import Request, only
from paramcrop.storage.mirror import Mirror
from paramcrop.sweeps.record import TrialRecorder
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import Trial, wanted_of
from ray_jobs.engine.plans.plan import Plan


@dataclass(frozen=True)
class Work:
    """What all trials of a sweep share.

    Attributes:
        space: the sweep's question. folder, uri: the sweep's folder, or the URI of which it is the driver's copy.
        home: the driver's ``home()``, which all nodes see if they use it.
        data_id: data id of the pretraining videos. contents: dataset -> data id, for evaluation.
        request: the evaluations of all trials. proxy: the evaluation by which asha compares trials; None without asha.
        plan: the resources of one trial. pool: the evaluators, shared by all trials.
    """

    space: Space
    folder: Path
    uri: str
    home: str
    data_id: str
    contents: Mapping[str, str]
    request: Request
    proxy: Request | None
    plan: Plan
    pool: Sequence[Any]

    def place(self, who: str) -> Mirror:
        """The sweep's folder, or ``who``'s copy of it."""
        return Mirror.of(self.uri, who) if self.uri else Mirror(self.folder)

    def request_for(self, trial: Trial) -> Request:
        """The evaluations of a trial's runs."""
        return only(self.request, trial.tasks or self.space.evaluate.tasks)

    def wanted(self, trial: Trial) -> str:
        """The hash that a trial's record must have to count as done."""
        tasks = [(self.contents[name], protocol) for name, protocol in self.request_for(trial).tasks]
        return wanted_of(self.space, trial, self.data_id, tasks)


def report(recorder: TrialRecorder, run: str, state: str) -> None:
    """Report to Tune. Every report has all keys, because its searcher and its scheduler each require theirs."""
    record = recorder.record
    proxy = math.nan if record.proxy is None else record.proxy
    objectives = [math.nan if value is None else value for value in record.objectives]
    ray.tune.report({"objectives": objectives, "proxy": proxy, "epoch": record.epoch, "run": run, "state": state})
