"""What a sweep would do: its trials, shared and finished runs, resources, time and disk space."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from math import ceil
from pathlib import Path
from statistics import fmean

from paramcrop.data.order import steps_per_epoch
from paramcrop.errors import DataError
from paramcrop.report.text import show_time
from paramcrop.settings.config import Config
from paramcrop.settings.identity import flatten
from paramcrop.storage.mirror import Mirror, folders_in
from paramcrop.storage.runs import find_run, home, read_status
from paramcrop.sweeps.record import read_record
from paramcrop.sweeps.trials import Trial, config_of
from paramcrop.training.model_size import trainable_parameters
from ray_jobs.device import this_machine
from ray_jobs.engine.plans.sweep import SweepPlan, plan_sweep
from ray_jobs.launch_files.check import check_cluster, describe_cluster
from ray_jobs.sweep.estimate import Pace, costly, evaluation_seconds, paces, seconds_of
from ray_jobs.sweep.gpu_memory import sharing_of
from ray_jobs.sweep.options import ALONE
from ray_jobs.sweep.plan import Sweep
from ray_jobs.videos import find_videos


def describe(sweep: Sweep, cluster: str | None, concurrent: int | None, per_gpu: str = ALONE) -> str:
    """The dry run of one sweep, as text.

    Args:
        cluster, concurrent, per_gpu: the options --cluster, --concurrent and --trials-per-gpu.

    Raises:
        ConfigError, ResourceError: the launch file is invalid, or no trial fits its cluster.
    """
    sweep.check()
    space = sweep.space
    checked = check_cluster(cluster, sweep.config) if cluster else None
    nodes = checked.nodes if checked else [this_machine()]
    t, workers, unfinished = sweep.config.train, sweep.config.worker_counts[0], sweep.unfinished()
    todo, sharing = len(unfinished) + sweep.fresh, sharing_of(sweep, per_gpu)
    plan = plan_sweep(nodes, workers, t.device, t.cpus_per_worker, concurrent, todo or None, sharing)
    runs = {place: config for trial in sweep.trials for place, config in _runs(sweep, trial)}
    left = {place: config for place, config in runs.items() if _state(place) != "finished"}
    lines = [
        space.question,
        f"sweep: {sweep.place}",
        f"preset {space.preset}, {t.epochs} epochs, seeds {', '.join(map(str, space.seeds))}",
    ]
    lines += [f"  {key} = {value}" for key, value in space.set.items()]
    lines += _trials(sweep, unfinished)
    lines.append(f"evaluations of the runs: {', '.join(f'{name}/{p.label}' for name, p in sweep.request.tasks)}")
    lines += sweep.warnings
    lines.append(f"pretrainings: {len(runs)}, {len(runs) - len(left)} of them finished")
    if space.search != "grid":
        lines.append(
            f"search: {space.search}, {space.samples} trials, {len(sweep.trials)} drawn so far; the values of the "
            "others are not known yet"
        )
    lines += [f"resources{' (of this machine only)' if cluster is None else ''}: {plan.arithmetic}"]
    fresh = sweep.fresh * len(space.seeds)
    lines.append(_time(sweep, list(left.values()), fresh, plan))
    lines.append(_disk(sweep, len(left) + fresh))
    if cluster and checked:
        lines.append(describe_cluster(cluster, checked))
    return "\n".join(lines)


def describe_all(sweeps: Sequence[Sweep]) -> str:
    """The dry run of several sweeps: a line for each, then their totals, where shared runs count once."""
    lines, runs, rows = list[str](), set[Mirror](), 0
    for sweep in sweeps:
        sweep.check()
        own = {place for trial in sweep.trials for place, _ in _runs(sweep, trial)}
        printed = len(sweep.space.layout.lines) if sweep.space.layout else 0
        counts = f"{printed} rows, " if printed else ""
        seeds = ", ".join(map(str, sweep.space.seeds))
        counts += f"{len(sweep.trials)} trials x seeds {seeds}, {len(own - runs)} new pretrainings"
        lines.append(f"{sweep.folder.name}: {counts}; {sweep.space.question}")
        rows += len(sweep.trials) * len(sweep.space.seeds)
        runs |= own
    finished = sum(_state(place) == "finished" for place in runs)
    lines.append(f"pretrainings: {len(runs)} for {rows} trials x seeds, {finished} of them finished")
    lines.append("--space NAME --dry-run lists the trials, resources, time and disk space of one")
    return "\n".join(lines)


def _runs(sweep: Sweep, trial: Trial) -> list[tuple[Mirror, Config]]:
    """Each seed's run: where it is or would be stored, and its settings."""
    found = []
    for seed in sweep.space.seeds_of(trial.id):
        config = config_of(sweep.space, trial, seed)
        found.append((_place(config, sweep), config))
    return found


def _place(config: Config, sweep: Sweep) -> Mirror:
    data_id = sweep.data_id if config.data == sweep.config.data else find_videos(config)[1].data_id
    return find_run(config, data_id, listed=_listed)


_listed = cache(folders_in)


@cache
def _state(place: Mirror) -> str:
    with suppress(OSError, DataError):
        place.fetch("status.json", waits=())
    return str(read_status(place.folder)["state"]) if place.folder.exists() else "new"


def _trials(sweep: Sweep, left: Sequence[Trial]) -> list[str]:
    """A line for each trial: its label, its state, and the states of its runs; ``left`` are unfinished."""
    lines, first, unfinished = [], dict[Mirror, str](), {trial.id for trial in left}
    for number, trial in enumerate(sweep.trials, 1):
        record, states = read_record(sweep.folder, trial.id), []
        for seed, (place, _) in zip(sweep.space.seeds_of(trial.id), _runs(sweep, trial), strict=True):
            shared = f", shared with {first[place]}" if place in first else ""
            states.append(f"seed {seed} {_state(place)}{shared}")
            first.setdefault(place, trial.label)
        state = record.state if record else "new"
        if state == "done" and trial.id in unfinished:
            again = record.again if record else 0
            state = (
                f"done, but {again} videos are to be read again" if again else "done, but the space has changed since"
            )
        lines.append(f"{number:>3}. {trial.id[:6]} {trial.label}: {state}; runs: {'; '.join(states)}")
    return lines


def _time(sweep: Sweep, left: Sequence[Config], fresh: int, plan: SweepPlan) -> str:
    """The estimated time of the pretrainings with these settings, and of ``fresh`` ones of the sweep's own.

    Those of which no run like them has finished count as the mean of the others. Trials that share a GPU count as if
    they took turns, which is the longest that they may take.
    """
    storage = sweep.config.run.storage
    runs = home() / "runs" if storage is None or "://" in storage else Path(storage).expanduser()
    seconds, measured = list[float](), 0
    for config in [*left, *[sweep.config] * fresh]:
        known = _paces(runs, config)
        if known:
            per_epoch = steps_per_epoch(sweep.videos.videos, config.train.global_batch, config.labelled_rows)
            seconds.append(seconds_of(known, config.total_steps(per_epoch)))
            measured = max(measured, len(known))
    count = len(left) + fresh
    if not seconds:
        return "time: unknown until one run of these settings has finished here" if count else "time: none"
    tasks = [(name, protocol.label) for name, protocol in sweep.request.tasks]
    evaluations = evaluation_seconds(runs, sweep.config.run.name, tasks)
    total = count * (fmean(seconds) + (evaluations or 0.0)) / ceil(plan.trials / plan.per_gpu)
    what = "plus the evaluations" if evaluations is None else "with their evaluations"
    most = "at most" if plan.per_gpu > 1 else "about"
    return f"time: {most} {show_time(total)} for {count} pretrainings, {what} (from {measured} runs like these)"


_known = dict[str, list[Pace]]()


def _paces(runs: Path, config: Config) -> list[Pace]:
    """``paces``, once for all configs of equal cost."""
    key = json.dumps(costly(flatten(config.model_dump(mode="json"))), sort_keys=True)
    if key not in _known:
        _known[key] = paces(runs, config)
    return _known[key]


def _disk(sweep: Sweep, runs: int) -> str:
    """The estimated disk space: a checkpoint has weights and momentum, about two float32 values per parameter."""
    config = sweep.config
    checkpoints = -(-config.train.epochs // config.run.checkpoint_epochs)
    total = runs * checkpoints * 8 * trainable_parameters(config, sweep.videos.classes)
    return f"disk: about {total / 2**30:.2g} GiB of checkpoints ({runs} runs x {checkpoints})"
