"""The paper's value beside a trial's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paramcrop.config import Config, identity
from paramcrop.errors import ConfigError
from paramcrop.evaluation.paper import published
from paramcrop.evaluation.protocols import SHORT
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import Trial, config_of

# What the paper's runs may differ in from the defaults, which are its settings.
VARIED = {"method", "backbone.name", "backbone.depth", "policy", "train.epochs", "optim.warmup_epochs", "data.split"}


def paper_value(space: Space, trial: Trial, result: Mapping[str, Any], metric: str) -> float | None:
    """In [0, 1]; the space's own word, else what was published for these very settings; None: neither.

    Args:
        result: one of the trial's, of the task in question.
    """
    name = result["numbers"]["name"]
    for text, value in trial.paper.items():
        task, _, of = text.partition(" ")
        dataset, _, protocol = task.rpartition("/")
        if of == metric and SHORT.get(protocol, protocol) == name and dataset in ("", result["dataset"]):
            return value / 100
    config = _papers_own(space, trial)
    return published(config, result["dataset"], name, metric) if config else None


def _papers_own(space: Space, trial: Trial) -> Config | None:
    """The trial's settings, if they differ from the defaults in nothing that the paper has not varied so."""
    try:
        config = config_of(space, trial, space.seeds[0])
    except ConfigError:
        return None
    return config if set(identity(config, "")["settings"]) <= VARIED else None
