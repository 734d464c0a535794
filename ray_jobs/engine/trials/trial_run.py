"""One pretraining of a trial: start it, resume it, or wait for the process that runs it; compare it as it trains."""

from __future__ import annotations

import os
import time
from concurrent.futures import Executor
from contextlib import suppress
from threading import Thread

from paramcrop.data.order import steps_per_epoch
from paramcrop.errors import DataError, LeaseError
from paramcrop.evaluation.tasks import make_jobs
from paramcrop.report.run_page import refresh_page
from paramcrop.settings.config import Config
from paramcrop.storage.checkpoint import NAME, newest_checkpoint, steps_done
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.owner import hold
from paramcrop.storage.results import read_result
from paramcrop.storage.runs import begin, ending, is_finished, read_metrics, read_status, run_place
from paramcrop.sweeps.objective import main_value
from paramcrop.sweeps.record import TrialRecorder
from ray_jobs.engine.evaluators import run_evaluations
from ray_jobs.engine.train import Pretraining, run_pretraining
from ray_jobs.engine.trials.work import Work, report
from ray_jobs.videos import find_videos

POLL, FAR = 1.0, 5.0  # seconds between two looks at the running pretraining, on a file system and in a bucket
WAIT = 2.0  # seconds between two attempts to take over a run that another process holds


def pretrain(config: Config, compared: bool, recorder: TrialRecorder, work: Work, pages: Executor) -> Mirror:
    """Train one run to its end, or until it is asked to stop -> where it is stored.

    Args:
        compared: whether to report the run's proxies to the scheduler; true for the first seed only.
        pages: writes the run's page while the trial goes on.

    Raises:
        ParamCropError, ray.train.TrainingFailedError: the training failed.
    """
    data, manifest = find_videos(config)
    place = run_place(config, manifest.data_id, f"trial-{os.getpid()}")
    steps = config.total_steps(steps_per_epoch(manifest.videos, config.train.global_batch, config.labelled_rows))
    videos = manifest.about | {"content_id": manifest.content_id}
    recorder.run(config.seed, place)
    while not finished(place):
        try:
            with hold(place, recorder.doing) as lease:
                if finished(place):  # by another process, just before this one got the lease
                    break
                begin(place, config, manifest.data_id, videos, lambda text: None)
                recorder.run(config.seed, place, "running")
                with ending(place, steps):
                    if steps_done(newest_checkpoint(place.folder, place.fetch)[0])[1] < steps:
                        run = Pretraining(config, work.plan, data, manifest, place, lease.path)
                        _watched(run, steps, compared, recorder, work)
                if place.uri:  # what is fetched meanwhile would remove a page that is not sent yet
                    refresh_page(place)
                else:
                    pages.submit(refresh_page, place)
        except LeaseError as held:  # another trial or command trains the same run: share its result
            recorder.run(config.seed, place)
            recorder.doing(f"seed {config.seed}: waiting: {held}")
            time.sleep(WAIT)
            continue
        if not finished(place):  # it was asked to stop
            break
    recorder.run(config.seed, place, str(read_status(place.folder)["state"]))
    return place


def finished(place: Mirror) -> bool:
    place.fetch()
    return is_finished(place.folder)


def _watched(run: Pretraining, steps: int, compared: bool, recorder: TrialRecorder, work: Work) -> None:
    """Train in a thread; meanwhile report progress and proxies. Raises what the training raises."""
    # The training blocks until its end, so it gets a thread of its own, and this one stays free to report.
    config, place, raised = run.config, run.place, list[BaseException]()

    def train() -> None:
        try:
            run_pretraining(run)
        except BaseException as error:
            raised.append(error)

    thread = Thread(target=train, daemon=True)
    thread.start()
    seen = ""
    while thread.is_alive():
        thread.join(FAR if place.uri else POLL)
        recorder.doing(f"seed {config.seed}: pretraining{_done(place, config.train.epochs, steps)}")
        if compared and work.proxy and thread.is_alive():
            seen = _compare(place, config, recorder, work, seen)
    if raised:
        raise raised[0]


def _done(place: Mirror, epochs: int, steps: int) -> str:
    with suppress(OSError, DataError):
        place.fetch("metrics.jsonl", waits=())
    metrics = read_metrics(place.folder)
    if not metrics:
        return " starts"
    last = metrics[-1]
    return f", epoch {last['epoch'] + 1}/{epochs}, step {last['step']}/{steps}, loss {last['loss']:.3f}"


def _compare(place: Mirror, config: Config, recorder: TrialRecorder, work: Work, seen: str) -> str:
    """Evaluate and report the newest checkpoint, unless it was reported before or is the last one -> its name.

    The scheduler may then ask the run to stop.

    Args:
        seen: the newest checkpoint at the last look: it is not read again.
    """
    with suppress(OSError, DataError):
        place.fetch("checkpoints/", light=True, waits=())
    name = max((meta.parent.name for meta in place.folder.glob("checkpoints/epoch=*/meta.json")), default="")
    if name == seen or work.proxy is None:
        return name
    newest, _ = newest_checkpoint(place.folder, place.fetch)
    epoch, _ = steps_done(newest)
    if newest is None or epoch <= recorder.record.epoch or epoch >= config.train.epochs:
        return name
    if newest.name != NAME.format(epoch):  # saved within an epoch, so not comparable with other trials
        return name
    jobs = make_jobs(work.proxy, [place.folder], epoch)
    failed = run_evaluations(jobs, work.pool, lambda finished, texts: None)
    results = [result for job in jobs if (result := read_result(job.result_file)) is not None]
    if failed or not results:
        recorder.record.failures += [f"proxy at epoch {epoch}: {error}" for error in failed.values()]
        return name
    recorder.compared(epoch, sum(map(main_value, results)) / len(results))
    report(recorder, str(place), "running")
    return name
