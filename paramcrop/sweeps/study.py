"""The Optuna study of a sweep, on disk, so that optuna-dashboard opens it. It knows no Ray.

The study remembers what was suggested and how it ended; results themselves lie with the runs. So a trial that a kill
left unfinished is told FAIL and its values are enqueued again, once, and nothing that is finished is computed twice.
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

from paramcrop.settings.digest import text_hash
from paramcrop.sweeps.space import Space, Swept
from paramcrop.sweeps.trials import VARIANT, decode, encode, trial_id

FILE = "study.journal"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Of each swept key; numbers of a grid are a range, so that one can be added later."""
    if space.variants:
        return {VARIANT: CategoricalDistribution([variant.label for variant in space.variants])}
    return {key: _distribution(swept, space.search == "grid") for key, swept in space.params.items()}


def _distribution(swept: Swept, grid: bool) -> BaseDistribution:
    if swept.whole is not None:
        return IntDistribution(*swept.whole)
    if swept.bounds is not None:
        return FloatDistribution(*swept.bounds, log=swept.loguniform is not None)
    values = swept.listed or ()
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if grid and numbers:
        return FloatDistribution(float(min(values)), float(max(values)))
    return CategoricalDistribution([encode(value) for value in values])


def make_sampler(space: Space, drawn: int) -> BaseSampler:
    """For the next draw after ``drawn`` others, so that a search that was cut off goes on as it would have."""
    text = hashlib.sha256(f"{space.sampler_seed}/{drawn}".encode()).digest()
    seed = int.from_bytes(text[:4], "little")
    if space.search != "tpe":
        return RandomSampler(seed)
    return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def storage(folder: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(folder / FILE)))


def study_name(name: str, space: Space) -> str:
    """Spaces whose values are drawn otherwise have studies of their own in the same file."""
    text = json.dumps({k: distribution_to_json(d) for k, d in distributions(space).items()}, sort_keys=True)
    return f"{name}-{text_hash(space.search + text, 8)}"


def open_study(folder: Path, name: str, space: Space) -> optuna.Study:
    """The study, made if it is not there."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    direction = StudyDirection.MAXIMIZE if space.objective.mode == "max" else StudyDirection.MINIMIZE
    return optuna.create_study(
        storage=storage(folder),
        study_name=study_name(name, space),
        direction=direction,
        sampler=make_sampler(space, 0),
        load_if_exists=True,
    )


def drawn_values(study: optuna.Study, space: Space) -> list[dict[str, Any]]:
    """All values that were ever suggested, each once, in order."""
    known: dict[str, dict[str, Any]] = {}
    for trial in study.get_trials(deepcopy=False):
        if set(trial.params) == set(distributions(space)):
            values = decode(space, trial.params)
            known.setdefault(trial_id(values), values)
    return list(known.values())


def end_unfinished(study: optuna.Study) -> int:
    """Tell FAIL of what an earlier command left running or waiting -> how many. Only who holds the sweep may."""
    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in left:
        study.tell(trial.number, state=TrialState.FAIL)
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    for _ in waiting:  # asking takes the next that waits
        study.tell(study.ask(), state=TrialState.FAIL)
    return len(left) + len(waiting)


def enqueue(study: optuna.Study, values: Sequence[Mapping[str, Any]]) -> None:
    """The next asks give these, in order; call ``end_unfinished`` before."""
    for one in values:
        study.enqueue_trial({key: encode(value) for key, value in one.items()})


def tell(study: optuna.Study, trial: optuna.Trial | int, state: str, value: float) -> None:
    """How a trial ended: "done" (with a finite value), "pruned" or "diverged" (bad, whatever the value), else FAIL.

    Optuna ranks a pruned trial below the complete ones; a value that is not finite would leave it running for ever.
    """
    if state == "done" and math.isfinite(value):
        study.tell(trial, value)
    elif state in ("pruned", "diverged"):
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, state=TrialState.FAIL)


def best(study: optuna.Study) -> FrozenTrial | None:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return study.best_trial if complete else None
