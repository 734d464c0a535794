"""Evaluate pretrained runs on Ray: `paramcrop evaluate [--run RUN ...] [--task DATASET/PROTOCOL ...]`.

Without arguments: the newest demo run, on synthetic videos that it has not seen, compared with untrained weights and
plain pixels. Nothing finished is computed again: you can kill the command at any time, and the same command resumes.
"""

from __future__ import annotations

import time
import uuid
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from paramcrop.data.synthetic import outlines
from paramcrop.errors import ParamCropError
from paramcrop.settings.identity import METHOD_VERSION
from paramcrop.storage.mirror import mirror_at
from paramcrop.storage.results import read_result
from paramcrop.storage.runs import method_version
from ray_jobs.evaluate.options import find_data, find_runs, make_request, parse_arguments

if TYPE_CHECKING:
    from paramcrop.evaluation.job import Job

MOST_LISTED = 6  # pictures to list; if there are more, list their folders


def age_note(run: Path) -> str:
    """A line for a run of an older version of the method; empty for one of this version."""
    if (version := method_version(run)) == METHOD_VERSION:
        return ""
    text = f"note: {run.name} was trained with version {version} of the method, and this is version {METHOD_VERSION}"
    return f"{text}: equal settings do not mean equal runs"


def main(argv: Sequence[str]) -> None:
    arguments = parse_arguments(argv, __doc__ or "")
    with outlines() if arguments.dry_run else nullcontext():
        run(arguments)


def run(arguments: Namespace) -> None:
    from paramcrop.evaluation.checks import broken_sets, key_of
    from ray_jobs.evaluate.report import describe, print_results

    console, start = Console(soft_wrap=True), time.monotonic()
    say = partial(console.print, highlight=False, markup=False)
    runs = find_runs(arguments)
    jobs, remarks = ask(arguments, runs)
    left = [job for job in jobs if not job.settled]
    broken = broken_sets(left)
    if broken and all(key_of(job) in broken for job in left):
        raise next(iter(broken.values()))
    say(describe(jobs, left))
    for line in [*(f"run: {run}" for run in runs), *remarks, *(f"warning: {error}" for error in broken.values())]:
        say(line)
    if arguments.dry_run:
        return
    failed: dict[str, ParamCropError] = {job.eval_id: broken[key_of(job)] for job in left if key_of(job) in broken}
    todo = [job for job in left if job.eval_id not in failed]
    if todo:
        failed |= compute(todo, arguments, f"evaluate {runs[0].name}", console)
    print_results(jobs, failed, console)
    finish(runs, jobs, [job for job in todo if job.eval_id not in failed], say)
    say(f"{len(left) - len(failed)} evaluations in {time.monotonic() - start:.0f} s")
    if failed:
        raise ParamCropError(f"{len(failed)} of {len(jobs)} evaluations failed; the same command tries them again")


def ask(arguments: Namespace, runs: Sequence[Path]) -> tuple[list[Job], list[str]]:
    """The evaluations that the arguments ask for, and remarks on them."""
    from paramcrop.evaluation.checks import weight_notes
    from paramcrop.evaluation.tasks import make_jobs, size_warnings
    from paramcrop.evaluation.weights import read_config

    config = read_config(runs[0])
    request = make_request(arguments, find_data(arguments, config), config)
    jobs = make_jobs(request, runs, arguments.epoch)
    remarks = [*size_warnings(request), *weight_notes(jobs), *filter(None, map(age_note, runs))]
    if arguments.fresh and not arguments.dry_run:
        name = uuid.uuid4().hex
        jobs = [job.afresh(name) for job in jobs]
    return jobs, remarks


def compute(todo: Sequence[Job], arguments: Namespace, what: str, console: Console) -> dict[str, ParamCropError]:
    """Run the evaluations on Ray, as soon as they fit beside other commands -> why those failed that did."""
    from ray_jobs.engine.admission import admitted, need_of_evaluations
    from ray_jobs.engine.connect import cluster_nodes, connect, connection
    from ray_jobs.engine.evaluators import end_pool, make_pool, run_evaluations
    from ray_jobs.engine.nodes import check_visible
    from ray_jobs.engine.plans.plan import plan_jobs
    from ray_jobs.evaluate.report import Evaluations
    from ray_jobs.terminal import Progress

    say = partial(console.print, highlight=False, markup=False)
    connect(ray_logs=False)
    say(connection())
    check_visible([job.uri or job.run for job in todo], [job.folder for job in todo])
    plan = plan_jobs(cluster_nodes(), len(todo), arguments.evaluators, arguments.device)
    say(f"resources: {plan.arithmetic}")
    evaluations = Evaluations(len(todo))
    with admitted(need_of_evaluations(plan), what, say):
        pool = make_pool(plan, arguments.timeout, len(todo))
        with Progress(evaluations.look, console):
            failed = run_evaluations(todo, pool, evaluations.report)
        end_pool(pool)
    return failed


def finish(runs: Sequence[Path], jobs: Sequence[Job], done: Sequence[Job], say: Callable[[str], None]) -> None:
    """Draw and list the pictures of ``jobs``, and give the results of the new ones to trackers and to the bucket."""
    from paramcrop.report.pictures import draw_results
    from paramcrop.training.recorder import TRACKED

    pictures = draw_results([job for job in jobs if job.subject == "run"])
    for path in pictures if len(pictures) <= MOST_LISTED else sorted({path.parent for path in pictures}):
        say(f"  {path}")
    for line in track([job for job in done if job.subject == "run"]):
        say(line)
    for place in map(mirror_at, runs):
        place.send("pictures/", *TRACKED)
        say(f"  {place}/results.jsonl")


def track(jobs: Sequence[Job]) -> list[str]:
    """Give new results to the trackers of their runs -> a line for each tracker that failed."""
    from paramcrop.storage.checkpoint import steps_done
    from paramcrop.training.tracking.after import track_results

    lines = list[str]()
    for run, checkpoint in dict.fromkeys((job.run, job.checkpoint) for job in jobs):
        own = [job for job in jobs if (job.run, job.checkpoint) == (run, checkpoint)]
        results = [result for job in own if (result := read_result(job.result_file)) is not None]
        trackers = own[0].settings.run.trackers
        lines += track_results(trackers, Path(run), steps_done(Path(checkpoint))[1], results)
    return lines
