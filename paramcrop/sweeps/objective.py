"""The objective of a search: one number per trial, the mean over its seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from paramcrop.errors import ConfigError
from paramcrop.evaluation.protocols import Protocol, find_protocol
from paramcrop.evaluation.statistics import mean_of
from paramcrop.sweeps.space import Space

# The main metric of each kind of protocol.
MAIN = {"finetune": "video@1", "heads": "video@1", "knn": "video@1", "retrieval": "R@1", "validation": "R@1"}
MAIN |= {"classifier": "video@1"}


def objective_parts(space: Space) -> tuple[str, str, str]:
    """The objective as (dataset, or "" for all; name of the protocol; metric), or three "" if the space has no task.

    Raises:
        ConfigError: the objective names no task of the space, or a metric that its protocol does not have.
    """
    if not space.tasks:
        return "", "", ""
    text = space.objective.metric or space.tasks[0]
    task, _, metric = text.partition(" ")
    dataset, _, short = task.rpartition("/")
    protocol = find_protocol(short)
    tasks = [find_protocol(task.rpartition("/")[2]).name for task in space.tasks]
    if protocol.name not in tasks:
        raise ConfigError(f"objective.metric must be of one of {', '.join(space.tasks)}, but is {text!r}")
    metric, known = metric.strip() or MAIN[protocol.kind], metrics_of(protocol, space.evaluate.set)
    if metric not in known:
        raise ConfigError(f"objective.metric: {task} has the metrics {', '.join(known)}, but not {metric!r}")
    return dataset, protocol.name, metric


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


def objective_of(space: Space, results: Sequence[Mapping[str, Any]]) -> float:
    """The objective's metric, averaged over the pretraining seeds and, if it names no dataset, over the datasets.

    Args:
        results: the results of the trial's runs.

    Returns:
        NaN if a seed of the space has no result.
    """
    dataset, protocol, metric = objective_parts(space)
    sets: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for result in results:
        matches = result["protocol"].partition("[")[0] == protocol and dataset in ("", result["dataset"])
        if matches and result["subject"] == "run":
            for row in result["rows"]:
                if row["metric"] == metric:
                    seeds = sets.setdefault(result["dataset"], {})
                    seeds.setdefault(result["pretraining_seed"], []).append(row | {"splits": result["splits"]})
    if not sets or any(set(seeds) != set(space.seeds) for seeds in sets.values()):
        return math.nan
    return sum(mean_of(seeds).value for seeds in sets.values()) / len(sets)
