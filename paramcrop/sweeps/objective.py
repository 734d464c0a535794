"""The objectives of a search: one number per trial and objective, the mean over its seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from paramcrop.errors import ConfigError
from paramcrop.evaluation.protocols import Protocol, find_protocol
from paramcrop.evaluation.statistics import mean_of
from paramcrop.storage.jsonl import read_lines
from paramcrop.sweeps.cost import worker_seconds
from paramcrop.sweeps.parts import Objective
from paramcrop.sweeps.space import Space

# The main metric of each kind of protocol.
MAIN = {"finetune": "video@1", "heads": "video@1", "knn": "video@1", "retrieval": "R@1", "validation": "R@1"}
MAIN |= {"classifier": "video@1"}
COSTS = {"gpu_hours": "cuda", "cpu_hours": "cpu"}  # objectives beside the metrics -> the workers' device


class Goal(NamedTuple):
    """One objective of a space.

    Attributes:
        dataset: "" for all datasets. protocol: its name; "" for a cost. metric: of the protocol, or one of ``COSTS``.
        mode: "max" or "min".
    """

    dataset: str
    protocol: str
    metric: str
    mode: str

    @property
    def name(self) -> str:
        """Its name with its unit, as in "validation-retrieval R@1 (%)"."""
        return self.plain + " (%)" * bool(self.protocol)

    @property
    def plain(self) -> str:
        """Its name without its unit."""
        task = f"{self.dataset}/{self.protocol}".lstrip("/")
        return f"{task} {self.metric}" if self.protocol else self.metric.replace("_", " ")

    def show(self, value: float) -> str:
        return f"{100 * value:.1f} %" if self.protocol else f"{value:.3g} h"


def goals(space: Space) -> tuple[Goal, ...]:
    """The objectives of a space; empty if it has no task.

    Raises:
        ConfigError: an objective names no task of the space, or a metric that its protocol does not have.
    """
    return tuple(goal_of(space, objective) for objective in space.objective) if space.tasks else ()


def goal_of(space: Space, objective: Objective) -> Goal:
    if objective.metric in COSTS:
        return Goal("", "", objective.metric, objective.mode)
    text = objective.metric or space.tasks[0]
    task, _, metric = text.partition(" ")
    dataset, _, short = task.rpartition("/")
    protocol = find_protocol(short)
    tasks = [find_protocol(task.rpartition("/")[2]).name for task in space.tasks]
    if protocol.name not in tasks:
        choices = ", ".join((*space.tasks, *COSTS))
        raise ConfigError(f"objective.metric must be of one of {choices}, but is {text!r}")
    metric, known = metric.strip() or MAIN[protocol.kind], metrics_of(protocol, space.evaluate.set)
    if metric not in known:
        raise ConfigError(f"objective.metric: {task} has the metrics {', '.join(known)}, but not {metric!r}")
    return Goal(dataset, protocol.name, metric, objective.mode)


def metrics_of(protocol: Protocol, changes: Mapping[str, Any]) -> tuple[str, ...]:
    """The metrics of a protocol's results, with ``changes`` to its parameters."""
    if protocol.kind in ("retrieval", "validation"):
        return tuple(f"R@{k}" for k in changes.get("ranks", protocol.ranks))
    clips = ("clip@1",) if protocol.kind in ("finetune", "classifier") else ()
    return (*clips, "video@1", "video@5", "class mean")


def main_value(result: Mapping[str, Any]) -> float:
    """A result's main metric."""
    metric = MAIN[find_protocol(result["protocol"].partition("[")[0]).kind]
    value: float = next(row["value"] for row in result["rows"] if row["metric"] == metric)
    return value


def front(aims: Sequence[Goal], values: Sequence[Sequence[float | None]]) -> list[bool]:
    """Whether each of several trials is on the Pareto front: no other is as good in all objectives and better in one.

    Args:
        values: of each trial, one for each objective; a trial without all of them is not on the front.
    """
    signs = [1 if goal.mode == "max" else -1 for goal in aims]
    known = [[v * s for v, s in zip(one, signs, strict=False) if v is not None] for one in values]
    full = [one for one in known if len(one) == len(aims)]

    def beaten(one: list[float]) -> bool:
        return any(other != one and all(a >= b for a, b in zip(other, one, strict=True)) for other in full)

    return [len(one) == len(aims) and not beaten(one) for one in known]


def objective_of(
    space: Space, seeds: Sequence[int], results: Sequence[Mapping[str, Any]], runs: Sequence[Path]
) -> list[float]:
    """The value of each objective, averaged over the pretraining seeds and, if it names no dataset, over the datasets.

    Args:
        seeds: those of the trial. results: the results of its runs. runs: their folders.

    Returns:
        NaN for an objective if a seed has no result.
    """
    return [
        _cost(goal.metric, seeds, runs) if not goal.protocol else _mean(goal, seeds, results) for goal in goals(space)
    ]


def _mean(goal: Goal, seeds: Sequence[int], results: Sequence[Mapping[str, Any]]) -> float:
    values = seed_values(goal, results)
    return sum(values.values()) / len(values) if values and set(values) == set(seeds) else math.nan


def seed_values(goal: Goal, results: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Pretraining seed -> its value of a metric, averaged over the datasets; without seeds that lack a dataset."""
    sets: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for result in results:
        matches = result["protocol"].partition("[")[0] == goal.protocol and goal.dataset in ("", result["dataset"])
        if matches and result["subject"] == "run":
            for row in result["rows"]:
                if row["metric"] == goal.metric:
                    seeds = sets.setdefault(result["dataset"], {})
                    seeds.setdefault(result["pretraining_seed"], []).append(row | {"splits": result["splits"]})
    shared = set.intersection(*map(set, sets.values())) if sets else set()
    return {
        seed: sum(mean_of({seed: seeds[seed]}).value for seeds in sets.values()) / len(sets) for seed in sorted(shared)
    }


def _cost(metric: str, seeds: Sequence[int], runs: Sequence[Path]) -> float:
    """Hours of the workers on one kind of device, a mean over the runs; a start that was killed does not count."""
    if len(runs) < len(seeds):
        return math.nan
    seconds = [worker_seconds(read_lines(run / "history.jsonl"))[0].get(COSTS[metric], 0.0) for run in runs]
    return sum(seconds) / len(runs) / 3600


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
