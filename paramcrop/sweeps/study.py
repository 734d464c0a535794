"""The Optuna studies of a sweep, in a file that optuna-dashboard can open. They do not depend on Ray.

There is one study for each question that was asked: other settings, seeds, tasks or objectives give other values, which
must not be compared. A study stores what was suggested and how each trial ended; the results are stored with the runs,
so a new question about the same runs is told what is known already (``adopt``). When a kill leaves a trial unfinished,
the study marks it FAIL and enqueues its values again, once. Nothing that has finished is computed twice.
"""

from __future__ import annotations

import json
import math
import random
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
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
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from paramcrop.errors import DataError
from paramcrop.settings.digest import short_hash, text_hash
from paramcrop.settings.identity import run_id
from paramcrop.sweeps.objective import goals
from paramcrop.sweeps.parts import Swept
from paramcrop.sweeps.samplers import make_sampler
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import VARIANT, Trial, config_of, decode, encode
from paramcrop.sweeps.values import is_number, trial_id

FILE = "study.journal"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
TRIES = 5  # draws of a sampler; when all of them repeat earlier ones, a cell that is left is drawn by chance
ASKED = "asked"  # attribute of a study: when the sweep last opened it, in seconds since 1970


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
    numbers = all(map(is_number, values))
    if grid and numbers:
        return FloatDistribution(float(min(values)), float(max(values)))
    return CategoricalDistribution([encode(value) for value in values])


def number_of_cells(space: Space) -> float:
    """The number of different trials that a search can draw; infinite if a setting has a range of real numbers."""
    axes = [_axis(swept) for swept in space.params.values()]
    return math.inf if any(axis is None for axis in axes) else math.prod(len(axis) for axis in axes if axis is not None)


def _axis(swept: Swept) -> Sequence[Any] | None:
    if swept.integers is not None:
        return range(swept.integers[0], swept.integers[1] + 1)
    return swept.listed


def storage(folder: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(folder / FILE)))


def study_name(name: str, space: Space, data_id: str, contents: Mapping[str, str]) -> str:
    """NAME-RUNS-QUESTION: 8 hex digits over how values are drawn and what is trained, and 8 over what is asked of it.

    Args:
        data_id: that of the pretraining videos. contents: evaluation dataset -> its data id.
    """
    drawn = {key: distribution_to_json(one) for key, one in distributions(space).items()}
    trained = run_id(config_of(space, Trial({}, space.preset, {}, {}), 0), data_id)
    runs = text_hash(space.search + json.dumps([drawn, space.derived, trained], sort_keys=True), 8)
    how = space.model_dump(mode="json", include={"seeds", "evaluate", "scheduler"})
    proxy = space.proxy.model_dump() if space.scheduler != "none" else None
    return f"{name}-{runs}-{short_hash([how, goals(space), proxy, dict(contents)], 8)}"


def open_study(folder: Path, name: str, space: Space) -> optuna.Study:
    """Open the study ``name``, and create it if it does not exist.

    Raises:
        DataError: its file is damaged. ConfigError: see ``make_sampler``.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    modes = [goal.mode for goal in goals(space)] or ["max"]
    sampler = make_sampler(space, 0)
    try:
        return optuna.create_study(
            storage=storage(folder),
            study_name=name,
            directions=[StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE for mode in modes],
            sampler=sampler,
            load_if_exists=True,
        )
    except (ValueError, KeyError, TypeError):  # of JSON, or of its fields
        raise _damaged(folder) from None


def asked(study: optuna.Study, space: Space) -> None:
    """Note in the study that it is the current one, and what it is about."""
    study.set_user_attr("question", space.question)
    if names := [goal.name for goal in goals(space)]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(names)
    study.set_user_attr(ASKED, time.time())


def current_study(folder: Path) -> optuna.Study | None:
    """The study of the question that was asked last, to read from; None if there is none."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = [study for name in _names(folder) if ASKED in (study := _load(folder, name)).user_attrs]
    return max(found, key=lambda study: float(study.user_attrs[ASKED]), default=None)


def _load(folder: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=storage(folder))


def _names(folder: Path) -> list[str]:
    if not (folder / FILE).exists():
        return []
    try:
        return optuna.get_all_study_names(storage(folder))
    except (ValueError, KeyError, TypeError):
        raise _damaged(folder) from None


def _damaged(folder: Path) -> DataError:
    text = "must be a study, but is damaged; delete it: finished runs are kept, and found again"
    return DataError(f"{folder / FILE} {text}")


def known_values(folder: Path, name: str, space: Space) -> list[dict[str, Any]]:
    """All values suggested so far, each once, in order: those of study ``name``, then those of its other questions.

    Of the others, which asked something else of the same runs, there are at most as many as the space has samples.
    """
    runs = name.rpartition("-")[0]
    others = [other for other in _names(folder) if other.rpartition("-")[0] == runs and other != name]
    own = drawn_values(_load(folder, name), space) if name in _names(folder) else []
    ids = {trial_id(values) for values in own}
    known = {trial_id(v): v for other in others for v in drawn_values(_load(folder, other), space)}
    more = [values for id, values in known.items() if id not in ids]
    return [*own, *more[: max(0, (space.samples or 0) - len(own))]]


def drawn_values(study: optuna.Study, space: Space) -> list[dict[str, Any]]:
    """All values that a study has suggested so far, each once, in order."""
    known: dict[str, dict[str, Any]] = {}
    keys = set(distributions(space))
    for trial in study.get_trials(deepcopy=False):
        if set(trial.params) == keys:
            values = decode(space, trial.params)
            known.setdefault(trial_id(values), values)
    return list(known.values())


def draw(study: optuna.Study, space: Space) -> optuna.Trial | None:
    """The next trial: one that is enqueued, or one with values that were not drawn before; None if all were.

    The sampler's seed depends on the number of values drawn, so an interrupted search continues as it would have.
    """
    keys, known = distributions(space), {trial_id(values) for values in drawn_values(study, space)}
    if study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        return study.ask(keys)
    if space.search == "grid" or len(known) >= number_of_cells(space):
        return None
    for attempt in range(TRIES):
        study.sampler = make_sampler(space, len(known), attempt)
        trial = study.ask(keys)
        if trial_id(decode(space, trial.params)) not in known:
            return trial
        study.tell(trial, state=TrialState.FAIL)
    left = next((cell for cell in _cells(space, len(known)) if trial_id(cell) not in known), None)
    enqueue(study, [left] if left else [])  # the space has ranges: let the sampler repeat itself no more
    return study.ask(keys) if left else None


def _cells(space: Space, drawn: int) -> Iterator[dict[str, Any]]:
    """The cells of a space without real ranges, each axis in an order by chance; empty for any other space."""
    chance, axes = random.Random(f"{space.sampler_seed}/{drawn}"), list[list[Any]]()
    for swept in space.params.values():
        axis = _axis(swept)
        if axis is None:
            return
        axes.append(chance.sample(list(axis), len(axis)))
    yield from (dict(zip(space.params, cell, strict=True)) for cell in product(*axes))


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


def adopt(study: optuna.Study, space: Space, ends: Iterable[tuple[Mapping[str, Any], str, Sequence[float]]]) -> None:
    """Tell a study of trials that have ended without it, for another question or before its file was deleted.

    Args:
        ends: the values of each trial, its state and its objectives, as for ``tell``.
    """
    ended = study.get_trials(deepcopy=False, states=ENDED)
    known = {trial_id(decode(space, trial.params)) for trial in ended if set(trial.params) == set(distributions(space))}
    for values, state, objectives in ends:
        if trial_id(values) not in known:
            enqueue(study, [values])
            tell(study, study.ask(distributions(space)), state, objectives)


def tell(study: optuna.Study, trial: optuna.Trial | int, state: str, values: Sequence[float]) -> None:
    """Tell the study how a trial ended.

    "done" with finite values completes it, "pruned" and "diverged" prune it, everything else fails it. Optuna ranks
    pruned trials below complete ones, and it refuses non-finite values, which would leave the trial running for ever.
    """
    if state == "done" and len(values) == len(study.directions) and all(map(math.isfinite, values)):
        study.tell(trial, list(values))
    elif state in ("pruned", "diverged"):
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, state=TrialState.FAIL)


def best(study: optuna.Study) -> list[FrozenTrial]:
    """The best complete trial; with several objectives, every trial that no other one beats in all of them."""
    return study.best_trials if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) else []
