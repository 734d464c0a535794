"""The paper's value for a result: from the space, or from any table that has a run with the same settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from paramcrop.errors import ConfigError
from paramcrop.evaluation.protocols import find_protocol
from paramcrop.paper.spaces import paper_space
from paramcrop.paper.tables import read_paper
from paramcrop.settings.config import Config
from paramcrop.settings.identity import identity
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import Trial, config_of

Key = tuple[str, str, str]  # dataset, protocol, metric


def paper_value(space: Space, trial: Trial, result: Mapping[str, Any], metric: str) -> float | None:
    """The paper's value in [0, 1]; None: it has none.

    Args:
        result: a result of the trial in the task.
    """
    name = result["numbers"]["name"]
    for text, value in trial.paper.items():
        task, _, of = text.partition(" ")
        dataset, _, protocol = task.rpartition("/")
        if of == metric and find_protocol(protocol).name == name and dataset in ("", result["dataset"]):
            return value / 100
    try:
        config = config_of(space, trial, space.seeds[0])
    except ConfigError:
        return None
    return next(iter(published(config, result["dataset"], name, metric)), None)


def published(config: Config, dataset: str, protocol: str, metric: str) -> tuple[float, ...]:
    """The values that the paper prints for a run with these settings, in [0, 1]; two if two tables differ."""
    found = all_published().get(_settings(config), {}).get((dataset, protocol, metric), ())
    return tuple(dict.fromkeys(value / 100 for value in found))


@cache
def all_published() -> dict[str, dict[Key, list[float]]]:
    """Settings (see ``_settings``) -> the values that all tables print for them, in %."""
    paper, values = read_paper(), dict[str, dict[Key, list[float]]]()
    if paper is None:
        return values
    for name, entry in paper.entries.items():
        space = paper_space(paper, name).model_copy(update={"preset": entry.preset or paper.preset, "set": {}})
        for variant in space.variants:
            settings = _settings(config_of(space, Trial({}, variant.label, variant.set, {}), 0))
            for text, value in variant.paper.items():
                task, _, metric = text.partition(" ")
                dataset, _, protocol = task.rpartition("/")
                key = (dataset, find_protocol(protocol).name, metric)
                values.setdefault(settings, {}).setdefault(key, []).append(value)
    return values


def _settings(config: Config) -> str:
    """The settings that identify a run, apart from its split and seed."""
    settings = identity(config, "")["settings"]
    return json.dumps({k: v for k, v in settings.items() if k not in ("data.split", "seed")}, sort_keys=True)
