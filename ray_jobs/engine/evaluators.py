"""A pool of actors that evaluate: of fixed size, made once, started again when they die.

An actor computes; videos are decoded by tasks anywhere in the cluster, a few ahead of it. What is finished stays:
features shard by shard, fine-tuning epoch by epoch, a result as one file. So an actor that died goes on from there.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from paramcrop.evaluation.results import append_rows, read_result, write_result
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.lease import Lease
from paramcrop.storage.mirror import Mirror
from ray_jobs.engine.plan import EvaluationPlan

RETRIES = 3  # of a task or a job whose process died
POLL = 0.5  # seconds between two looks at what the actors say
WAIT = 2.0  # seconds between two looks at an evaluation that another process has at work


class Evaluator:
    """One actor; ``said`` answers while ``evaluate`` is at work."""

    def __init__(self, threads: int, gpu: bool, ahead: int, timeout: float) -> None:
        self.device = torch.device("cuda" if gpu else "cpu")
        self.ahead, self.timeout, self.text = ahead, timeout, ""
        if not gpu:
            torch.set_num_threads(threads)

    def evaluate(self, job: Job) -> tuple[str, str] | None:
        """Evaluate and keep the result -> (class, text) of an error of ours; any other is raised."""
        place = Mirror.of(job.uri, f"evaluator-{os.getpid()}") if job.uri else Mirror(Path(job.run))
        try:
            job = _on_this_node(job, place)
            if read_result(job.result_file) is None:
                self._hold_and_evaluate(job)
                place.send("features/", f"evaluations/{job.eval_id}.json")
        except ParamCropError as error:
            return type(error).__name__, str(error)
        return None

    def _hold_and_evaluate(self, job: Job) -> None:
        """Or wait for the process that has the same evaluation at work."""
        while read_result(job.result_file) is None:
            try:
                with Lease(job.work):
                    if read_result(job.result_file) is None:
                        write_result(job.result_file, evaluate(job, self.device, self._mapped, self._tell))
            except LeaseError as held:
                self._tell(f"waiting: {held}")
                time.sleep(WAIT)

    def said(self) -> str:
        return self.text

    def _tell(self, text: str) -> None:
        self.text = text

    def _mapped(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        """In order, ``ahead`` items at a time, each in a task with a child process that can be killed."""
        task = ray.remote(_call).options(num_cpus=1, max_retries=RETRIES)
        kept, waiting = ray.put(function), deque[Any]()
        for item in items:
            waiting.append(task.remote(kept, item, self.timeout))
            if len(waiting) > self.ahead:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())


def _on_this_node(job: Job, place: Mirror) -> Job:
    """The same job of this process's own copy of the run, which has the checkpoint and the features kept so far."""
    if not place.uri:
        return job
    name = Path(job.checkpoint).name
    place.fetch()
    place.fetch("features/", f"checkpoints/{name}/")
    return replace(job, run=str(place.folder), checkpoint=str(place.folder / "checkpoints" / name))


def _call(function: Callable[..., Any], item: Any, timeout: float) -> Any:
    return function(item, guard=_guard(timeout))


@cache
def _guard(timeout: float) -> Callable[..., Any]:
    """One child process for this one's whole life: it ends with it."""
    return Killable(direct, timeout)


def make_pool(plan: EvaluationPlan, timeout: float, most: int | None = None) -> list[Any]:
    """``plan.actors`` actors, or ``most`` if that is less; they last until ``end_pool``, or as long as this process.

    Args:
        timeout: seconds a video may take to decode.
    """
    # One evaluation at a time, however many are sent; it can be asked how far it is meanwhile.
    options: dict[str, Any] = {"concurrency_groups": {"computing": 1, "talking": 1}, "max_restarts": -1}
    options |= {"num_cpus": plan.cpus, "num_gpus": plan.gpus, "max_task_retries": RETRIES}
    remote: Any = ray.remote(**options)(Evaluator)
    actors = plan.actors if most is None else min(plan.actors, most)
    return [remote.remote(plan.threads, plan.gpus > 0, plan.ahead, timeout) for _ in range(actors)]


def end_pool(pool: Sequence[Any]) -> None:
    """End its actors now, not when the last handle of them is gone: what Tune was given keeps handles."""
    for actor in pool:
        ray.kill(actor)


def run_evaluations(
    jobs: Sequence[Job], pool: Sequence[Any], tell: Callable[[int, list[str]], None]
) -> dict[str, ParamCropError]:
    """Evaluate every job that has no result yet -> eval id -> why it failed.

    Args:
        pool: of ``make_pool``; several processes may send to it.
        tell: called now and then with the jobs ended and what the actors say.
    """
    waiting, working, failed, ended = deque(jobs), dict[Any, tuple[Any, Job]](), dict[str, ParamCropError](), 0
    free = deque(pool)
    while waiting or working:
        while waiting and free:
            actor, job = free.popleft(), waiting.popleft()
            working[actor.evaluate.options(concurrency_group="computing").remote(job)] = actor, job
        ready, _ = ray.wait(list(working), timeout=POLL)
        for ref in ready:
            actor, job = working.pop(ref)
            free.append(actor)
            ended += 1
            if (error := _outcome(ref)) is not None:
                failed[job.eval_id] = error
        tell(ended, _said([actor for actor, _ in working.values()]))
    for run, uri in {(job.run, job.uri) for job in jobs if job.uri}:
        gather_results(Mirror(Path(run), uri))
    return failed


def gather_results(place: Mirror) -> None:
    """Fetch what the evaluators of any node found out of a run, and send its rows."""
    place.fetch("evaluations/")
    rows = place.folder / "results.jsonl"
    known = {line["eval_id"] for line in read_lines(rows)}
    for file in sorted((place.folder / "evaluations").glob("*.json")):
        if file.stem not in known and (result := read_result(file)) is not None:
            append_rows(rows, result)
    place.send("results.jsonl")


def _outcome(ref: Any) -> ParamCropError | None:
    try:
        answer = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        return ParamCropError(f"{type(error.cause).__name__}: {str(error.cause).strip().partition(chr(10))[0]}")
    except ray.exceptions.RayError as error:
        reason = str(error).strip().partition("\n")[0]
        return ResourceError(f"an evaluator must live to the end, but {RETRIES + 1} died: {reason}")
    if answer is None:
        return None
    name, text = answer
    made: ParamCropError = getattr(errors, name)(text)
    return made


def _said(actors: Sequence[Any]) -> list[str]:
    """What the actors say; "" of one that is starting."""
    ready, _ = (
        ray.wait(
            [actor.said.options(concurrency_group="talking").remote() for actor in actors],
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
