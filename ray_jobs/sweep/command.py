"""Answer a question with a sweep: `paramcrop sweep [--space FILE_OR_NAME] [--preset NAME] [key=value ...]`.

A trial is one configuration: a pretraining for each seed, then their evaluations. Nothing that this or another sweep
has finished is computed again: you can kill the command at any time, and the same command resumes.
"""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path

from rich.console import Console

from paramcrop.data.synthetic import outlines
from paramcrop.errors import Abandoned
from paramcrop.storage.find import fetch_now
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.owner import hold
from paramcrop.storage.runs import home
from paramcrop.sweeps.objective import goals
from paramcrop.sweeps.record import TrialRecord, fetch_records
from ray_jobs.device import find_device
from ray_jobs.options import parse_sets, uncollected
from ray_jobs.sweep.gpu_memory import check_sharing, sharing_of
from ray_jobs.sweep.interrupt import end_trials, keep_runs
from ray_jobs.sweep.options import PAPER, find_sweeps, parse_arguments
from ray_jobs.sweep.plan import Sweep, open_sweep, raise_failures, sweep_place
from ray_jobs.sweep.seeds import standings_of, with_known_seeds, with_more_seeds
from ray_jobs.videos import find_videos


def main(argv: Sequence[str]) -> None:
    console, start = Console(soft_wrap=True), time.monotonic()
    arguments = parse_arguments(argv, __doc__ or "")
    data = parse_sets(arguments.data)
    with outlines() if arguments.dry_run else nullcontext():
        run_all(arguments, data, console, start)


def run_all(arguments: Namespace, data: dict[str, str], console: Console, start: float) -> None:
    device = partial(find_device, cluster=arguments.cluster)
    asked, who = find_sweeps(arguments, data), "dry-run" if arguments.dry_run else "sweep"
    sweeps = [open_sweep(sweep_place(name, space, who), space, data, device) for name, space in asked]
    for sweep in sweeps:
        check_sharing(sweep, arguments.trials_per_gpu)
    if arguments.dry_run:
        for sweep in sweeps:
            fetch_now(sweep.place, "run.storage must be a store that answers")
        sweeps = [with_known_seeds(sweep) for sweep in sweeps]
        with uncollected():
            console.print(dry_run(sweeps, arguments), highlight=False, markup=False)
        return
    trials = [answer(sweep, arguments, console) for sweep in sweeps]
    if len(sweeps) > 1:
        from paramcrop.report.page import write_paper

        paper = sweep_place(PAPER, sweeps[0].space)
        for file in sent(paper, write_paper([sweep.folder for sweep in sweeps], paper.folder)):
            console.print(f"  {file}", highlight=False, markup=False)
    if any(trials):
        console.print(f"{sum(trials)} trials in {time.monotonic() - start:.0f} s", highlight=False)
        raise_failures(sweeps)


def dry_run(sweeps: Sequence[Sweep], arguments: Namespace) -> str:
    from ray_jobs.sweep.dry_run import describe, describe_all

    if len(sweeps) > 1:
        return describe_all(sweeps)
    return describe(sweeps[0], arguments.cluster, arguments.concurrent, arguments.trials_per_gpu)


def answer(sweep: Sweep, arguments: Namespace, console: Console) -> int:
    """Run the remaining trials of a sweep and report on it -> the number of trials that it ran."""
    with hold(sweep.place, lambda text: console.print(text, highlight=False)):
        sweep.place.fetch()
        ran, standing = run_left(sweep, arguments, console)
    for line in standing:
        console.print(f"until: {line}", highlight=False, markup=False)
    if not ran:
        text = f"nothing to do; finished trials: {len(sweep.trials)}; {sweep.place}/index.html"
        console.print(text, highlight=False, markup=False)
        return 0
    from paramcrop.report.page import read_table, write_report
    from ray_jobs.report import print_table

    files = write_report(sweep.folder)
    print_table(read_table(sweep.folder), console)
    for file in sent(sweep.place, files):
        console.print(f"  {file}", highlight=False, markup=False)
    return ran


def run_left(sweep: Sweep, arguments: Namespace, console: Console) -> tuple[int, list[str]]:
    """Run what is left, and then one seed at a time until the comparisons that the space names are resolved.

    Returns:
        The number of trials that ran, and the standing of each comparison.
    """
    sweep, budget, ran = with_known_seeds(sweep), sweep.space.budget, 0
    deadline = None if budget.hours is None else time.monotonic() + 3600 * budget.hours
    while True:
        todo = sweep.todo()
        if todo:
            run(sweep, todo, arguments, deadline, console)
        ran += todo
        over = (budget.trials or math.inf) <= ran or (deadline or math.inf) < time.monotonic()
        more = None if over else with_more_seeds(sweep)
        if more is None:
            return ran, [pair.show() for pair in standings_of(sweep)]
        sweep, pair = more
        console.print(f"until: {pair.show()}; one more seed of each", highlight=False, markup=False)


def sent(place: Mirror, files: Sequence[Path]) -> list[str]:
    """Send the files of a report to the sweep's bucket, if it is in one -> where they are."""
    names = [str(file.relative_to(place.folder)) for file in files]
    place.send(*names)
    return [f"{place}/{name}" for name in names]


def run(sweep: Sweep, todo: int, arguments: Namespace, deadline: float | None, console: Console) -> None:
    """Connect to Ray (or start it), divide the cluster, and run the remaining trials."""
    from ray_jobs.engine.admission import admitted, need_of_sweep, within
    from ray_jobs.engine.connect import connect, connection, planned
    from ray_jobs.engine.evaluators import end_pool, make_pool
    from ray_jobs.engine.nodes import check_visible, with_cards
    from ray_jobs.engine.plans.plan import Node
    from ray_jobs.engine.plans.sweep import DRIVER_CPUS, SweepPlan, plan_sweep
    from ray_jobs.engine.trials.tuning import run_trials
    from ray_jobs.engine.trials.work import Work
    from ray_jobs.sweep.live_page import live_page
    from ray_jobs.sweep.progress import sweep_progress

    say = partial(console.print, highlight=False, markup=False)
    sharing = sharing_of(sweep, arguments.trials_per_gpu)
    connect(ray_logs=False, trains=True)
    say(connection())
    t, workers = sweep.config.train, sweep.config.worker_counts[0]

    def plan_of(nodes: list[Node]) -> SweepPlan:
        known = with_cards(nodes) if sharing else nodes
        return plan_sweep(known, workers, t.device, t.cpus_per_worker, arguments.concurrent, todo, sharing)

    with ExitStack() as stack:
        plan = stack.enter_context(planned(sweep.config, plan_of, say))
        check_visible([sweep.place], [*sweep.data.values(), find_videos(sweep.config)[0]])
        cpus = stack.enter_context(admitted(need_of_sweep(plan), f"sweep {sweep.folder.name}", say))
        each = (cpus - plan.evaluation.actors * plan.evaluation.cpus) / plan.trials - DRIVER_CPUS
        pretraining = within(plan.pretraining, each)
        say(f"{sweep.space.question}\nsweep: {sweep.place}")
        say("\n".join([f"resources: {pretraining.arithmetic}", *sweep.warnings]))
        pool = make_pool(plan.evaluation, arguments.timeout, todo)
        shared = (
            sweep.space,
            sweep.folder,
            sweep.place.uri,
            str(home()),
            sweep.data_id,
            sweep.contents,
            sweep.request,
            sweep.proxy,
        )
        work = Work(*shared, pretraining, pool)
        try:
            with (
                sweep_progress(sweep.place, todo, console, arguments.quiet, goals(sweep.space)),
                live_page(sweep.place),
            ):
                lost = run_trials(work, sweep.study_name, todo, plan.trials, t.epochs, deadline)
        except KeyboardInterrupt:
            with suppress(KeyboardInterrupt):  # the second one ends it now
                keep_runs(sweep.place, say)
            raise Abandoned from None  # trials go on until this process ends
        end_pool(pool)
    fetch_records(sweep.place)
    for trial, why in lost:
        record = TrialRecord(trial.id, trial.label, trial.values, sweep.wanted(trial))  # it may not have begun one
        say(f"{record.name}: failed: {why}")
        end_trials(sweep.place, [record], "failed", why)
