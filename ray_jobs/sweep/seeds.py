"""The seeds that a sweep adds to its trials until a comparison is resolved."""

from __future__ import annotations

from dataclasses import replace

from paramcrop.sweeps.record import read_record
from paramcrop.sweeps.until import Standing, standings, until_goal, widest
from ray_jobs.sweep.plan import Sweep, results_of


def standings_of(sweep: Sweep) -> list[Standing]:
    """The standing of each pair that the space compares until it is resolved."""
    if sweep.space.until is None:
        return []
    records = {trial.label: read_record(sweep.folder, trial.id) for trial in sweep.trials}
    results = {label: results_of(record) for label, record in records.items() if record is not None}
    return standings(sweep.space.until.resolved, until_goal(sweep.space), results)


def with_known_seeds(sweep: Sweep) -> Sweep:
    """The same sweep with the seeds that earlier commands have added to trials."""
    until = sweep.space.until
    if until is None:
        return sweep
    named = {label for pair in until.resolved for label in pair}
    records = {trial.id: read_record(sweep.folder, trial.id) for trial in sweep.trials if trial.label in named}
    known = {key: min(len(record.runs), until.most_seeds) for key, record in records.items() if record is not None}
    return replace(sweep, space=sweep.space.model_copy(update={"extra_seeds": known}))


def with_more_seeds(sweep: Sweep) -> tuple[Sweep, Standing] | None:
    """The same sweep with one more seed for the pair that needs it most, and its standing; None: no pair does."""
    until = sweep.space.until
    pair = widest(standings_of(sweep), until.most_seeds) if until else None
    if pair is None:
        return None
    ids = [trial.id for trial in sweep.trials if trial.label in (pair.a, pair.b)]
    now = {key: len(sweep.space.seeds_of(key)) for key in ids}
    if pair.seeds < min(now.values()):  # a seed has failed, and the next command tries it again
        return None
    more = sweep.space.extra_seeds | {key: max(count, pair.seeds + 1) for key, count in now.items()}
    return replace(sweep, space=sweep.space.model_copy(update={"extra_seeds": more})), pair
