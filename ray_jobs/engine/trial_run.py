"""One pretraining of a trial: begun, gone on with or waited for; watched, and compared while it trains."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from threading import Thread

from paramcrop.data.order import steps_per_epoch
from paramcrop.errors import LeaseError
from paramcrop.evaluation.results import read_result
from paramcrop.evaluation.tasks import make_jobs
from paramcrop.settings.config import Config
from paramcrop.storage.checkpoint import NAME, newest_checkpoint, steps_done
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import begin, ending, hold, is_finished, read_metrics, read_status, run_place
from paramcrop.sweeps.objective import main_value
from paramcrop.sweeps.record import TrialRecorder
from ray_jobs.engine.evaluators import run_evaluations
from ray_jobs.engine.train import Pretraining, run_pretraining
from ray_jobs.engine.work import Work, report
from ray_jobs.videos import find_videos

POLL = 1.0  # seconds between two looks at a run at work
WAIT = 2.0  # seconds between two looks at a run that another process has at work


def pretrain(config: Config, compared: bool, recorder: TrialRecorder, work: Work) -> Mirror:
    """Bring one run to its end, or to where it is stopped -> where it lies.

    Args:
        compared: whether its proxies are reported; the first seed's are.

    Raises:
        ParamCropError, ray.train.TrainingFailedError: it could not.
    """
    data, manifest = find_videos(config)
    place = run_place(config, manifest.content_id, f"trial-{os.getpid()}")
    steps = config.total_steps(steps_per_epoch(manifest.videos, config.train.global_batch, config.labelled_rows))
    recorder.run(config.seed, place)
    while not finished(place):
        try:
            with hold(place, recorder.doing) as lease:
                if finished(place):
                    break
                begin(place, config, manifest.content_id, manifest.about, lambda text: None)
                with ending(place, steps):
                    if steps_done(newest_checkpoint(place.folder, place.fetch)[0])[1] < steps:
                        run = Pretraining(config, work.plan, data, manifest, place, lease.path)
                        _watched(run, steps, compared, recorder, work)
        except LeaseError as held:
            recorder.doing(f"seed {config.seed}: waiting: {held}")
            time.sleep(WAIT)
            continue
        if not finished(place):
            break
    recorder.run(config.seed, place, str(read_status(place.folder)["state"]))
    return place


def finished(place: Mirror) -> bool:
    place.fetch()
    return is_finished(place.folder)


def _watched(run: Pretraining, steps: int, compared: bool, recorder: TrialRecorder, work: Work) -> None:
    """Train in a thread, and meanwhile say how far it is, and compare; raises what the training raises."""
    config, place, raised = run.config, run.place, list[BaseException]()

    def train() -> None:
        try:
            run_pretraining(run)
        except BaseException as error:
            raised.append(error)

    thread = Thread(target=train, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL)
        recorder.doing(f"seed {config.seed}: pretraining{_done(place, config.train.epochs, steps)}")
        if compared and work.proxy and thread.is_alive():
            _compare(place, config, recorder, work)
    if raised:
        raise raised[0]


def _done(place: Mirror, epochs: int, steps: int) -> str:
    with suppress(OSError):
        place.fetch("metrics.jsonl", waits=())
    metrics = read_metrics(place.folder)
    if not metrics:
        return " starts"
    last = metrics[-1]
    return f", epoch {last['epoch'] + 1}/{epochs}, step {last['step']}/{steps}, loss {last['loss']:.3f}"


def _compare(place: Mirror, config: Config, recorder: TrialRecorder, work: Work) -> None:
    """Report the newest checkpoint's proxy, if it was not yet and is not the last; a scheduler may then ask to stop."""
    place.fetch("checkpoints/", light=True)
    newest, _ = newest_checkpoint(place.folder, place.fetch)
    epoch, _ = steps_done(newest)
    if newest is None or epoch <= recorder.record.epoch or epoch >= config.train.epochs or work.proxy is None:
        return
    if newest.name != NAME.format(epoch):  # taken within an epoch
        return
    jobs = make_jobs(work.proxy, [place.folder], epoch)
    failed = run_evaluations(jobs, work.pool, lambda ended, texts: None)
    results = [result for job in jobs if (result := read_result(job.result_file)) is not None]
    if failed or not results:
        recorder.record.failures += [f"proxy at epoch {epoch}: {error}" for error in failed.values()]
        return
    recorder.compared(epoch, sum(map(main_value, results)) / len(results))
    report(recorder, str(place), "running")
