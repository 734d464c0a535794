"""One trial of a sweep: a pretraining for each seed, then their evaluations, in a process that Ray Tune starts.

The files are the only state: a run's status and the results of its evaluations. So a trial that starts again, in this
sweep or another, only does what is missing, and waits for runs and evaluations that another process works on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray.train

from paramcrop.errors import NonFiniteLossError, ParamCropError
from paramcrop.evaluation.job import Job
from paramcrop.evaluation.tasks import Request, make_jobs
from paramcrop.storage.results import read_result
from paramcrop.storage.runs import is_finished
from paramcrop.sweeps.objective import finite, objective_of
from paramcrop.sweeps.record import TrialRecorder
from paramcrop.sweeps.study import FILE
from paramcrop.sweeps.trials import Trial, config_of, decode, make_trial
from ray_jobs.engine.connect import QUIET
from ray_jobs.engine.evaluators import run_evaluations
from ray_jobs.engine.nodes import check_seen
from ray_jobs.engine.trials.trial_run import pretrain
from ray_jobs.engine.trials.work import Work, report

# Seconds that the next trial of this process waits for the thread of this one to end. Tune's 2 would fail that trial.
NEXT = {"TUNE_FUNCTION_THREAD_TIMEOUT_S": "600"}


def run_trial(values: dict[str, Any], work: Work) -> None:
    """Tune's trainable. The outcome goes into the trial's record; Tune only gets the objective and the proxies.

    Raises:
        ResourceError: this node does not see the sweep's folder. Tune tries again, perhaps on another node.
    """
    if not work.uri:
        check_seen(work.folder / FILE)
    for name, value in (QUIET | NEXT).items():
        os.environ.setdefault(name, value)
    os.environ["PARAMCROP_HOME"] = work.home  # this process may be on a node with another home
    trial = make_trial(work.space, decode(work.space, values))
    recorder = TrialRecorder(work.place(f"trial-{os.getpid()}"), trial, work.wanted(trial))
    seeds = work.space.seeds_of(trial.id)
    with ThreadPoolExecutor(1) as pages:  # one thread, because matplotlib draws one figure at a time
        state, done = _pretrain(trial, recorder, work, pages)
        # After a failure, the finished seeds are evaluated all the same: the results count when the trial is tried
        # again.
        if state != "pruned":
            results = _evaluate(done, work.request_for(trial), recorder, work)
            state = "failed" if state == "done" and recorder.record.failures else state
            recorder.record.objectives = [finite(value) for value in objective_of(work.space, seeds, results, done)]
    recorder.end(state)
    report(recorder, "", state)


def _pretrain(trial: Trial, recorder: TrialRecorder, work: Work, pages: Executor) -> tuple[str, list[Path]]:
    """Pretrain each seed until one does not finish -> the trial's state, "done" so far, and the finished runs."""
    done, seeds = list[Path](), work.space.seeds_of(trial.id)
    for seed in seeds:
        try:
            place = pretrain(config_of(work.space, trial, seed), seed == seeds[0], recorder, work, pages)
        except NonFiniteLossError as error:
            return recorder.failed(seed, "diverged", error), done
        except (ParamCropError, ray.train.TrainingFailedError) as error:
            return recorder.failed(seed, "failed", error), done
        if not is_finished(place.folder):
            # Only a request to stop ends a run early without an error. With asha, that is the scheduler's pruning.
            stopped = ParamCropError("stopped by a file `stop` in its folder")
            return ("pruned" if work.proxy else recorder.failed(seed, "failed", stopped)), done
        done.append(place.folder)
    return "done", done


def _evaluate(runs: Sequence[Path], request: Request, recorder: TrialRecorder, work: Work) -> list[dict[str, Any]]:
    """Evaluate the runs and return all results; a failed evaluation is recorded and does not affect the others."""
    try:
        jobs = make_jobs(request, runs)
    except ParamCropError as error:
        recorder.record.failures.append(str(error))
        return []

    def report_progress(finished: int, texts: list[str]) -> None:
        recorder.doing(f"evaluating, {finished} of {len(todo)}: {'; '.join(text for text in texts if text)}")

    todo = [job for job in jobs if not job.settled]
    failed = run_evaluations(todo, work.pool, report_progress)
    recorder.record.failures += [f"{_name(job)}: {failed[job.eval_id]}" for job in todo if job.eval_id in failed]
    found = [(job, result) for job in jobs if (result := read_result(job.result_file)) is not None]
    recorder.record.results = [str(job.result_file) for job, _ in found]
    recorder.record.again = sum(len(result.get("again", ())) for _, result in found)
    return [result for _, result in found]


def _name(job: Job) -> str:
    return f"{job.dataset}/{job.how.label}, {job.test}, pretraining seed {job.settings.seed}, seed {job.seed}"
