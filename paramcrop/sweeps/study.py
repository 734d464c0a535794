"""The Optuna study of a sweep, in a file that optuna-dashboard can open. It does not depend on Ray.

The study stores what was suggested and how each trial ended; the results are stored with the runs. So when a kill
leaves a trial unfinished, the study marks it FAIL and enqueues its values again, once. Nothing that has finished is
computed twice.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from paramcrop.errors import DataError
from paramcrop.settings.digest import text_hash
from paramcrop.sweeps.space import Space, Swept
from paramcrop.sweeps.trials import VARIANT, decode, encode, trial_id

FILE = "study.journal"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The distribution of each swept key. Numbers in a grid become a range, so that values can be added later."""
    if space.variants:
        return {VARIANT: CategoricalDistribution([variant.label for variant in space.variants])}
    return {key: _distribution(swept, space.search == "grid") for key, swept in space.params.items()}


def _distribution(swept: Swept, grid: bool) -> BaseDistribution:
    if swept.integers is not None:
        return IntDistribution(*swept.integers)
    if swept.bounds is not None:
        return FloatDistribution(*swept.bounds, log=swept.loguniform is not None)
    values = swept.listed or ()
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if grid and numbers:
        return FloatDistribution(float(min(values)), float(max(values)))
    return CategoricalDistribution([encode(value) for value in values])


def make_sampler(space: Space, drawn: int) -> BaseSampler:
    """The sampler of the draw that follows ``drawn`` others.

    Its seed depends on that number, so an interrupted search continues as it would have without the interruption.
    """
    text = hashlib.sha256(f"{space.sampler_seed}/{drawn}".encode()).digest()
    seed = int.from_bytes(text[:4], "little")
    if space.search != "tpe":
        return RandomSampler(seed)
    return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def storage(folder: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(folder / FILE)))


def study_name(name: str, space: Space) -> str:
    """A name that depends on how values are drawn, so that spaces that draw differently get studies of their own."""
    text = json.dumps({k: distribution_to_json(d) for k, d in distributions(space).items()}, sort_keys=True)
    return f"{name}-{text_hash(space.search + text, 8)}"


def open_study(folder: Path, name: str, space: Space) -> optuna.Study:
    """Open the study, and create it if it does not exist.

    Raises:
        DataError: its file is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    direction = StudyDirection.MAXIMIZE if space.objective.mode == "max" else StudyDirection.MINIMIZE
    try:
        return optuna.create_study(
            storage=storage(folder),
            study_name=study_name(name, space),
            direction=direction,
            sampler=make_sampler(space, 0),
            load_if_exists=True,
        )
    except (ValueError, KeyError, TypeError):  # of JSON, or of its fields
        raise DataError(
            f"{folder / FILE} must be a study, but is damaged; delete it: finished runs are kept, and found again"
        ) from None


def drawn_values(study: optuna.Study, space: Space) -> list[dict[str, Any]]:
    """All values suggested so far, each once, in order."""
    known: dict[str, dict[str, Any]] = {}
    for trial in study.get_trials(deepcopy=False):
        if set(trial.params) == set(distributions(space)):
            values = decode(space, trial.params)
            known.setdefault(trial_id(values), values)
    return list(known.values())


def end_unfinished(study: optuna.Study) -> int:
    """Mark the trials that an earlier command left running or waiting as FAIL, and return their number.

    The caller must hold the sweep's lease, or it would end another process's trials.
    """
    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in left:
        study.tell(trial.number, state=TrialState.FAIL)
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    for _ in waiting:  # Optuna only ends a trial that runs, and asking starts the next one that waits
        study.tell(study.ask(), state=TrialState.FAIL)
    return len(left) + len(waiting)


def enqueue(study: optuna.Study, values: Sequence[Mapping[str, Any]]) -> None:
    """Make the next asks return these values, in order; call ``end_unfinished`` first."""
    for cell in values:
        study.enqueue_trial({key: encode(value) for key, value in cell.items()})


def tell(study: optuna.Study, trial: optuna.Trial | int, state: str, value: float) -> None:
    """Tell the study how a trial ended.

    "done" with a finite value completes it, "pruned" and "diverged" prune it, everything else fails it. Optuna ranks
    pruned trials below complete ones, and it refuses non-finite values, which would leave the trial running for ever.
    """
    if state == "done" and math.isfinite(value):
        study.tell(trial, value)
    elif state in ("pruned", "diverged"):
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, state=TrialState.FAIL)


def best(study: optuna.Study) -> FrozenTrial | None:
    """The best complete trial, if there is one."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return study.best_trial if complete else None
