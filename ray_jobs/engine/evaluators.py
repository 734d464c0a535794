"""A pool of evaluation actors with a fixed size; Ray restarts an actor that dies.

An actor computes, while tasks anywhere in the cluster decode videos, a few ahead of it. Finished parts are on disk:
features per shard, fine-tuning per epoch, and the result as one file. So a restarted actor resumes from there.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import ray
import torch

from paramcrop import errors
from paramcrop.data.killable import Killable
from paramcrop.data.uniform import direct
from paramcrop.errors import LeaseError, ParamCropError, ResourceError
from paramcrop.evaluation.evaluate import evaluate
from paramcrop.evaluation.job import Job
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.lease import Lease
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.results import append_rows, read_result, write_result
from paramcrop.training.gpu.memory import limit_memory, over_limit
from ray_jobs.engine.plans.plan import EvaluationPlan

RETRIES = 3  # retries of a task or an evaluation whose process died
POLL = 0.5  # seconds between two queries of the actors' progress
WAIT = 2.0  # seconds between two checks of an evaluation that another process is running


class Evaluator:
    """One actor. ``progress`` answers while ``evaluate`` runs, because they belong to different concurrency groups."""

    def __init__(self, threads: int, gpu: bool, ahead: int, timeout: float, memory_share: float | None = None) -> None:
        self.device = torch.device("cuda" if gpu else "cpu")
        self.ahead, self.timeout, self.text = ahead, timeout, ""
        self.room = limit_memory(memory_share, torch.device("cuda", 0)) if memory_share else None
        if not gpu:
            torch.set_num_threads(threads)

    def evaluate(self, job: Job) -> tuple[str, str] | None:
        """Evaluate and store the result -> None, or (class, text) of a ParamCropError; other errors are raised.

        A ParamCropError is returned, because Ray would wrap it in an exception of its own.
        """
        mirror = Mirror.of(job.uri, f"evaluator-{os.getpid()}") if job.uri else Mirror(Path(job.run))
        try:
            job = _on_this_node(job, mirror)
            if not job.settled:
                self._hold_and_evaluate(job)
                mirror.send("features/", f"evaluations/{job.eval_id}.json")
        except ParamCropError as error:
            return type(error).__name__, str(error)
        except torch.OutOfMemoryError:
            if self.room is None:
                raise
            return ResourceError.__name__, over_limit(self.room)
        return None

    def _hold_and_evaluate(self, job: Job) -> None:
        """Evaluate under a lease, or wait for the process that runs the same evaluation."""
        while not job.settled:
            try:
                with Lease(job.work):
                    # Another process may have finished between the check above and the lease.
                    if not job.settled:
                        write_result(job.result_file, evaluate(job, self.device, self._mapped, self._report))
                    return  # even if some videos could not be read in time: the next command tries them again
            except LeaseError as held:
                self._report(f"waiting: {held}")
                time.sleep(WAIT)

    def progress(self) -> str:
        """The current activity, for display."""
        return self.text

    def _report(self, text: str) -> None:
        self.text = text

    def _mapped(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        """Map in order, with up to ``ahead`` tasks in flight; each runs its decoder in a killable child process."""
        task = ray.remote(_call).options(num_cpus=1, max_retries=RETRIES)
        # The function may carry large arguments: put it into the object store once, not into every task.
        shared, pending = ray.put(function), deque[Any]()
        for item in items:
            pending.append(task.remote(shared, item, self.timeout))
            if len(pending) > self.ahead:
                yield ray.get(pending.popleft())
        while pending:
            yield ray.get(pending.popleft())


def _on_this_node(job: Job, mirror: Mirror) -> Job:
    """The same job on this process's copy of the run, after fetching its checkpoint and stored features."""
    if not mirror.uri:
        return job
    name = Path(job.checkpoint).name
    mirror.fetch()
    mirror.fetch("features/", f"checkpoints/{name}/")
    return replace(job, run=str(mirror.folder), checkpoint=str(mirror.folder / "checkpoints" / name))


def _call(function: Callable[..., Any], item: Any, timeout: float) -> Any:
    return function(item, guard=_guard(timeout))


@cache
def _guard(timeout: float) -> Callable[..., Any]:
    """One child process, which ends with this one."""
    return Killable(direct, timeout)


def make_pool(plan: EvaluationPlan, timeout: float, most: int | None = None) -> list[Any]:
    """Start ``plan.actors`` actors, at most ``most``. They live until ``end_pool``, or until this process ends.

    Args:
        timeout: seconds that a video may take to decode.
    """
    # An actor runs one evaluation at a time, even if several processes send it one, and reports progress meanwhile.
    options: dict[str, Any] = {"concurrency_groups": {"evaluation": 1, "progress": 1}, "max_restarts": -1}
    options |= {"num_cpus": plan.cpus, "num_gpus": plan.gpus, "max_task_retries": RETRIES}
    remote: Any = ray.remote(**options)(Evaluator)
    actors = plan.actors if most is None else min(plan.actors, most)
    given = plan.threads, plan.gpus > 0, plan.ahead, timeout, plan.memory_share
    return [remote.remote(*given) for _ in range(actors)]


def end_pool(pool: Sequence[Any]) -> None:
    """End the actors now. They would outlive this pool otherwise, because Tune keeps handles to them."""
    for actor in pool:
        ray.kill(actor)


def run_evaluations(
    jobs: Sequence[Job], pool: Sequence[Any], report: Callable[[int, list[str]], None]
) -> dict[str, ParamCropError]:
    """Evaluate every job that has no result yet -> eval id -> the error, for those that failed.

    Args:
        pool: the actors of ``make_pool``; several processes may use them at once.
        report: called regularly with the number of finished jobs and the actors' progress.
    """
    waiting, running, failed, finished = deque(jobs), dict[Any, tuple[Any, Job]](), dict[str, ParamCropError](), 0
    # An actor gets its next job only when it is free. A job queued on a busy actor could not move to a free one.
    free = deque(pool)
    while waiting or running:
        while waiting and free:
            actor, job = free.popleft(), waiting.popleft()
            running[actor.evaluate.options(concurrency_group="evaluation").remote(job)] = actor, job
        ready, _ = ray.wait(list(running), timeout=POLL)
        for ref in ready:
            actor, job = running.pop(ref)
            free.append(actor)
            finished += 1
            if (error := _outcome(ref)) is not None:
                failed[job.eval_id] = error
        report(finished, _progress_of([actor for actor, _ in running.values()]))
    for run, uri in {(job.run, job.uri) for job in jobs if job.uri}:
        gather_results(Mirror(Path(run), uri))
    return failed


def gather_results(mirror: Mirror) -> None:
    """Fetch a run's results, which evaluators on any node have sent, and send the rows of new ones.

    A bucket cannot append to a file, so only this process writes results.jsonl there.
    """
    mirror.fetch("evaluations/")
    rows = mirror.folder / "results.jsonl"
    known = {(line["eval_id"], line["metric"]): line for line in read_lines(rows)}  # of a metric, the last one
    for file in sorted((mirror.folder / "evaluations").glob("*.json")):
        result = read_result(file)
        if result and not all(_is_in(row, known.get((file.stem, row["metric"]))) for row in result["rows"]):
            append_rows(rows, result)
    mirror.send("results.jsonl")


def _is_in(row: Mapping[str, Any], line: Mapping[str, Any] | None) -> bool:
    return line is not None and all(line.get(name) == value for name, value in row.items())


def _outcome(ref: Any) -> ParamCropError | None:
    try:
        answer = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        return ParamCropError(f"{type(error.cause).__name__}: {str(error.cause).strip().partition(chr(10))[0]}")
    except ray.exceptions.RayError as error:
        reason = str(error).strip().partition("\n")[0]
        return ResourceError(f"the evaluator died {RETRIES + 1} times: {reason}; the same command tries again")
    if answer is None:
        return None
    name, text = answer
    failure: ParamCropError = getattr(errors, name)(text)
    return failure


def _progress_of(actors: Sequence[Any]) -> list[str]:
    """The progress of those actors that answer; "" for one that is restarting."""
    ready, _ = (
        ray.wait(
            [actor.progress.options(concurrency_group="progress").remote() for actor in actors],
            num_returns=len(actors),
            timeout=POLL,
        )
        if actors
        else ([], [])
    )
    texts = []
    for ref in ready:
        try:
            texts.append(ray.get(ref))
        except ray.exceptions.RayError:
            texts.append("")
    return texts
