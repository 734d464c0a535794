"""Optuna's samplers by the names that a space uses."""

from __future__ import annotations

import hashlib
import warnings
from importlib.util import find_spec

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from paramcrop.errors import ConfigError
from paramcrop.sweeps.space import Space

MANY = 200  # samples up to which a Gaussian process is fast enough to be fitted anew for each


def sampler_name(space: Space) -> str:
    """The search of a space; "auto" becomes nsga2 for several objectives, gp for few trials of numbers, else tpe."""
    if space.search != "auto":
        return space.search
    if len(space.objective) > 1:
        return "nsga2"
    numbers = all(swept.listed is None for swept in space.params.values())
    return "gp" if numbers and (space.samples or 0) <= MANY else "tpe"


def make_sampler(space: Space, drawn: int, attempt: int = 0) -> BaseSampler:
    """The sampler of the draw that follows ``drawn`` others.

    Its seed depends on that number, so an interrupted search continues as it would have without the interruption.

    Args:
        attempt: the number of draws that repeated earlier ones since.

    Raises:
        ConfigError: the sampler needs a package that is not installed, or cannot search for several objectives.
    """
    name, text = sampler_name(space), f"{space.sampler_seed}/{drawn}" + (f"/{attempt}" if attempt else "")
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if name == "tpe":
            return TPESampler(seed=seed, multivariate=len(space.objective) == 1, constant_liar=True)
        if name == "gp":
            return GPSampler(seed=seed)
        if name == "nsga2":
            return NSGAIISampler(seed=seed)
        if name == "qmc":  # one sequence, whose position is in the study
            return QMCSampler(seed=space.sampler_seed, scramble=True, warn_independent_sampling=False)
        if name == "cmaes":
            return _cmaes(seed, len(space.objective))
    return RandomSampler(seed)


def _cmaes(seed: int, objectives: int) -> BaseSampler:
    if objectives > 1:
        raise ConfigError(f"search=cmaes takes one objective, but there are {objectives}; nsga2 and tpe take several")
    if find_spec("cmaes") is None:
        raise ConfigError("search=cmaes needs the package cmaes; install it with: pip install 'paramcrop[cmaes]'")
    return CmaEsSampler(seed=seed, warn_independent_sampling=False)
