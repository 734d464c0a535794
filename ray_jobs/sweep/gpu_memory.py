"""How much GPU memory a trial of a sweep takes, which says how many may share a GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from typing import Any

from paramcrop.errors import ConfigError
from paramcrop.settings.config import Config
from paramcrop.settings.identity import flatten
from paramcrop.sweeps.parts import Swept
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import config_of, grid, make_trial
from paramcrop.sweeps.values import is_number
from ray_jobs.engine.plans.sweep import Sharing
from ray_jobs.sweep.estimate import costly
from ray_jobs.sweep.options import ALONE, AUTO
from ray_jobs.sweep.plan import Sweep, corner

MARGIN = 1.25  # peaks on an H100 were up to 1.08 of the estimate; the rest is for workspaces and fragmentation


def check_sharing(sweep: Sweep, option: str) -> None:
    """Raises:
    ConfigError: --trials-per-gpu is a number, but the trials have several workers or train on CPUs.
    """
    train = sweep.config.train
    if option in (AUTO, ALONE):
        return
    if train.device != "cuda":
        raise ConfigError(
            f"--trials-per-gpu {option} needs GPUs, but the trials train on CPUs; --concurrent says how many run at "
            "once there"
        )
    if sweep.config.worker_counts[-1] > 1:
        raise ConfigError(
            f"--trials-per-gpu {option} needs train.workers=1, but it is {train.workers}: NCCL refuses two workers of "
            "one run on the same GPU; leave one of the two out"
        )


def sharing_of(sweep: Sweep, option: str) -> Sharing | None:
    """What ``--trials-per-gpu`` asks for, if ``check_sharing`` allows it; None: each trial has GPUs of its own.

    Raises:
        ConfigError: the settings do not describe a valid model.
    """
    train = sweep.config.train
    if option == ALONE or train.device != "cuda" or sweep.config.worker_counts[-1] > 1:
        return None
    return Sharing(None if option == AUTO else int(option), trial_memory(sweep))


def trial_memory(sweep: Sweep) -> float:
    """GPU memory of the sweep's largest trial with one worker, GiB: the dry run's estimate with a margin.

    Raises:
        ConfigError: the settings do not describe a valid model.
    """
    from paramcrop.training.gpu.memory import CONTEXT  # imports torch
    from paramcrop.training.model_size import model_size

    sizes = [model_size(config, sweep.videos.classes).memory for config in different(sweep)]
    return MARGIN * max(sizes) / 2**30 + CONTEXT


def different(sweep: Sweep) -> list[Config]:
    """The settings of trials whose models or batches differ; for a search, of the largest that it may draw."""
    space, found = sweep.space, dict[str, Config]()
    for values in grid(space) or largest(space):
        with suppress(ConfigError):  # a trial that no search can draw
            config = config_of(space, make_trial(space, values), space.seeds[0])
            found[json.dumps(costly(flatten(config.model_dump(mode="json"))), sort_keys=True)] = config
    return list(found.values()) or [sweep.config]


def largest(space: Space) -> Iterator[dict[str, Any]]:
    """Values of a search: of each costly setting the largest number that it may draw, and every choice that is none."""
    params = {key: swept for key, swept in space.params.items() if costly({key: None})}
    for values in product(*map(tops, params.values())):
        yield corner(space) | dict(zip(params, values, strict=True))


def tops(swept: Swept) -> list[Any]:
    """The largest number of a range or a list, and every value of a list that is no number."""
    values = swept.listed if swept.listed is not None else (swept.bounds or ())
    numbers = [value for value in values if is_number(value)]
    return [*(value for value in values if not is_number(value)), *sorted(numbers)[-1:]]
