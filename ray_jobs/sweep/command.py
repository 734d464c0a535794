"""Answer a question with a sweep: `paramcrop sweep [--space FILE_OR_NAME] [--preset NAME] [key=value ...]`.

A trial is one configuration: a pretraining for each seed, then their evaluations. Nothing that this or another sweep
has finished is computed again: you can kill the command at any time, and the same command resumes.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

from rich.console import Console

from paramcrop.data.synthetic import outlines
from paramcrop.errors import Abandoned
from paramcrop.storage.lease import Lease
from paramcrop.storage.runs import home
from paramcrop.sweeps.record import read_records
from ray_jobs.device import find_device
from ray_jobs.options import parse_sets, uncollected
from ray_jobs.sweep.interrupt import end_trials, keep_runs
from ray_jobs.sweep.options import PAPER, find_sweeps, parse_arguments
from ray_jobs.sweep.plan import Sweep, open_sweep, raise_failures


def main(argv: Sequence[str]) -> None:
    console, start = Console(soft_wrap=True), time.monotonic()
    arguments = parse_arguments(argv, __doc__ or "")
    data = parse_sets(arguments.data)
    with outlines() if arguments.dry_run else nullcontext():
        run_all(arguments, data, console, start)


def run_all(arguments: Namespace, data: dict[str, str], console: Console, start: float) -> None:
    device = partial(find_device, cluster=arguments.cluster)
    sweeps = [open_sweep(home() / "sweeps" / name, space, data, device) for name, space in find_sweeps(arguments, data)]
    if arguments.dry_run:
        with uncollected():
            console.print(dry_run(sweeps, arguments), highlight=False, markup=False)
        return
    trials = [answer(sweep, arguments, console) for sweep in sweeps]
    if len(sweeps) > 1:
        from paramcrop.report.page import write_paper

        for file in write_paper([sweep.folder for sweep in sweeps], home() / "sweeps" / PAPER):
            console.print(f"  {file}", highlight=False, markup=False)
    if any(trials):
        console.print(f"{sum(trials)} trials in {time.monotonic() - start:.0f} s", highlight=False)
        raise_failures(sweeps)


def dry_run(sweeps: Sequence[Sweep], arguments: Namespace) -> str:
    from ray_jobs.sweep.dry_run import describe, describe_all

    return describe_all(sweeps) if len(sweeps) > 1 else describe(sweeps[0], arguments.cluster, arguments.concurrent)


def answer(sweep: Sweep, arguments: Namespace, console: Console) -> int:
    """Run the remaining trials of a sweep and report on it -> the number of trials that it ran."""
    with Lease(sweep.folder, lambda text: console.print(text, highlight=False)):
        todo = sweep.todo()
        if todo:
            run(sweep, todo, arguments.concurrent, arguments.timeout, arguments.quiet, console)
    if not todo:
        text = f"nothing to do; finished trials: {len(sweep.trials)}; {sweep.folder / 'index.html'}"
        console.print(text, highlight=False, markup=False)
        return 0
    from paramcrop.report.page import read_table, write_report
    from ray_jobs.report import print_table

    files = write_report(sweep.folder)
    print_table(read_table(sweep.folder), console)
    for file in files:
        console.print(f"  {file}", highlight=False, markup=False)
    return todo


def run(sweep: Sweep, todo: int, concurrent: int | None, timeout: float, quiet: bool, console: Console) -> None:
    """Connect to Ray (or start it), divide the cluster, and run the remaining trials."""
    from ray_jobs.engine.admission import admitted, need_of_sweep
    from ray_jobs.engine.connect import connect, connection, planned
    from ray_jobs.engine.evaluators import end_pool, make_pool
    from ray_jobs.engine.plan import Node, SweepPlan, plan_sweep
    from ray_jobs.engine.tuning import run_trials
    from ray_jobs.engine.work import Work
    from ray_jobs.sweep.progress import sweep_progress

    say = partial(console.print, highlight=False, markup=False)
    connect(ray_logs=False, trains=True)
    say(connection())
    t = sweep.config.train

    def plan_of(nodes: list[Node]) -> SweepPlan:
        return plan_sweep(nodes, t.workers, t.device, t.cpus_per_worker, concurrent)

    with (
        planned(sweep.config, plan_of, say) as plan,
        admitted(need_of_sweep(plan), f"sweep {sweep.folder.name}", say),
    ):
        say(
            "\n".join(
                [sweep.space.question, f"sweep: {sweep.folder}", f"resources: {plan.arithmetic}", *sweep.warnings]
            )
        )
        pool = make_pool(plan.evaluation, timeout, todo)
        shared = sweep.space, sweep.folder, sweep.data_id, sweep.contents, sweep.request, sweep.proxy
        work = Work(*shared, plan.pretraining, pool)
        hours = sweep.space.budget.hours
        deadline = None if hours is None else time.monotonic() + 3600 * hours
        try:
            with sweep_progress(sweep.folder, todo, console, quiet):
                run_trials(work, todo, plan.trials, t.epochs, deadline)
        except KeyboardInterrupt:
            keep_runs(sweep.folder, say)
            raise Abandoned from None  # trials go on until this process ends
        end_pool(pool)
    left = [record for record in read_records(sweep.folder) if record.state == "running"]
    end_trials(sweep.folder, left, "failed", "the process of the trial died repeatedly")
