"""One trial of a sweep: a pretraining for each seed, then its evaluations; in a process of its own, below Ray Tune.

The truth lies in folders: a run says how it stands, a result file that an evaluation is done. So a trial that is
started again, by this sweep or another, does only what is not done yet, and waits for what another process has at work.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import ray.train
import ray.tune

from paramcrop.checkpoint import NAME, newest_checkpoint, steps_done
from paramcrop.config import Config
from paramcrop.data.order import steps_per_epoch
from paramcrop.errors import LeaseError, NonFiniteLossError, ParamCropError
from paramcrop.evaluation.job import Job
from paramcrop.evaluation.tasks import Asked, make_jobs
from paramcrop.lease import Lease
from paramcrop.results import read_result
from paramcrop.runs import is_finished, read_metrics, read_status, run_folder
from paramcrop.stint import begin, ending
from paramcrop.sweeps.book import Book
from paramcrop.sweeps.objective import main_value, objective_of
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import Trial, config_of, decode, make_trial
from paramcrop.sweeps.wanted import wanted_of
from ray_jobs.engine.connect import QUIET
from ray_jobs.engine.evaluators import run_evaluations
from ray_jobs.engine.plan import Plan
from ray_jobs.engine.train import run_pretraining
from ray_jobs.videos import find_videos

POLL = 1.0  # seconds between two looks at a run at work
WAIT = 2.0  # seconds between two looks at a run that another process has at work


@dataclass(frozen=True)
class Work:
    """What every trial of a sweep is given.

    Attributes:
        folder: the sweep's. content_id: of the videos that runs are pretrained on. contents: of those evaluated on.
        asked: the evaluations of every run. proxy: the one that trials are compared by while they train, if any.
        plan: one trial's share of the cluster. pool: of evaluators, for all.
    """

    space: Space
    folder: Path
    content_id: str
    contents: Mapping[str, str]
    asked: Asked
    proxy: Asked | None
    plan: Plan
    pool: Sequence[Any]

    def wanted(self, trial: Trial) -> str:
        """What a trial's record must say for it to be done."""
        return wanted_of(self.space, trial, self.content_id, [(self.contents[n], p) for n, p in self.asked.tasks])


def run_trial(values: dict[str, Any], work: Work) -> None:
    """Tune's trainable: what became of the trial is its record; Tune is told the objective, and proxies on the way."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    trial = make_trial(work.space, decode(work.space, values))
    book = Book(work.folder, trial, work.wanted(trial))
    state, finished = "done", list[Path]()
    for seed in work.space.seeds:
        try:
            folder = _pretrain(config_of(work.space, trial, seed), seed == work.space.seeds[0], book, work)
        except NonFiniteLossError as error:
            state = book.failed(seed, "diverged", error)
            break
        except (ParamCropError, ray.train.TrainingFailedError) as error:
            state = book.failed(seed, "failed", error)
            break
        if not is_finished(folder):
            state = "pruned" if work.proxy else book.failed(seed, "failed", ParamCropError("stopped, as asked"))
            break
        finished.append(folder)
    if state != "pruned":
        results = _evaluate(finished, book, work)
        state = "failed" if state == "done" and book.record.failures else state
        book.record.objective = _finite(objective_of(work.space, results))
    book.end(state)
    _report(book, "", state)


def _pretrain(config: Config, compared: bool, book: Book, work: Work) -> Path:
    """Bring one run to its end, or to where it is stopped -> its folder.

    Args:
        compared: whether its proxies are reported; the first seed's are.

    Raises:
        ParamCropError, ray.train.TrainingFailedError: it could not.
    """
    data, manifest = find_videos(config)
    folder = run_folder(config, manifest.content_id)
    steps = config.total_steps(steps_per_epoch(manifest.videos, config.train.global_batch))
    book.run(config.seed, folder)
    while not is_finished(folder):
        try:
            with Lease(folder, book.doing) as lease:
                if is_finished(folder):
                    break
                begin(folder, config, manifest.content_id, lambda text: None)
                with ending(folder, steps):
                    if steps_done(newest_checkpoint(folder)[0])[1] < steps:
                        job = (config, work.plan, data, manifest, folder, lease.file)
                        _watched(job, steps, compared, book, work)
        except LeaseError as held:
            book.doing(f"seed {config.seed}: waiting: {held}")
            time.sleep(WAIT)
            continue
        if not is_finished(folder):
            break
    book.run(config.seed, folder, str(read_status(folder)["state"]))
    return folder


def _watched(job: tuple[Any, ...], steps: int, compared: bool, book: Book, work: Work) -> None:
    """Train in a thread, and meanwhile say how far it is, and compare; raises what the training raises."""
    config, folder, raised = job[0], job[4], list[BaseException]()

    def train() -> None:
        try:
            run_pretraining(*job)
        except BaseException as error:
            raised.append(error)

    thread = Thread(target=train, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL)
        metrics = read_metrics(folder)
        done = f", step {metrics[-1]['step']}/{steps}, loss {metrics[-1]['loss']:.3f}" if metrics else " starts"
        book.doing(f"seed {config.seed}: pretraining{done}")
        if compared and work.proxy and thread.is_alive():
            _compare(folder, config, book, work)
    if raised:
        raise raised[0]


def _compare(folder: Path, config: Config, book: Book, work: Work) -> None:
    """Report the newest checkpoint's proxy, if it was not yet and is not the last; a scheduler may then ask to stop."""
    newest, _ = newest_checkpoint(folder)
    epoch, _ = steps_done(newest)
    if newest is None or epoch <= book.record.epoch or epoch >= config.train.epochs or work.proxy is None:
        return
    assert newest.name == NAME.format(epoch)
    jobs = make_jobs(work.proxy, [folder], epoch)
    failed = run_evaluations(jobs, work.pool, lambda ended, texts: None)
    results = [result for job in jobs if (result := read_result(job.result_file)) is not None]
    if failed or not results:
        book.record.failures += [f"proxy at epoch {epoch}: {error}" for error in failed.values()]
        return
    book.compared(epoch, sum(map(main_value, results)) / len(results))
    _report(book, str(folder), "running")


def _evaluate(runs: Sequence[Path], book: Book, work: Work) -> list[dict[str, Any]]:
    """Every evaluation of the runs -> the results there are; those that fail are noted, and lose nothing else."""
    try:
        jobs = make_jobs(work.asked, runs)
    except ParamCropError as error:
        book.record.failures.append(str(error))
        return []

    def tell(ended: int, texts: list[str]) -> None:
        book.doing(f"evaluating, {ended} of {len(left)}: {'; '.join(text for text in texts if text)}")

    left = [job for job in jobs if read_result(job.result_file) is None]
    failed = run_evaluations(left, work.pool, tell)
    book.record.failures += [f"{_name(job)}: {failed[job.eval_id]}" for job in left if job.eval_id in failed]
    found = [(job, result) for job in jobs if (result := read_result(job.result_file)) is not None]
    book.record.results = [str(job.result_file) for job, _ in found]
    return [result for _, result in found]


def _name(job: Job) -> str:
    return f"{job.dataset}/{job.how.label}, {job.test}, pretraining seed {job.settings.seed}, seed {job.seed}"


def _report(book: Book, run: str, state: str) -> None:
    """To Tune; every report has the same keys, for both its searcher and its scheduler insist on theirs."""
    record = book.record
    objective = math.nan if record.objective is None else record.objective
    ray.tune.report({"objective": objective, "proxy": book.proxy, "epoch": record.epoch, "run": run, "state": state})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
