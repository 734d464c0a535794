"""What each worker of a pretraining does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train
import torch
from ray.train.torch import get_device

from paramcrop import dist, errors
from paramcrop.data.batch import Batch, to_batch
from paramcrop.data.uniform import UniformSpec
from paramcrop.errors import (
    DecodeFailuresError,
    NonFiniteLossError,
    ParamCropError,
    ResourceError,
    ShardError,
    StorageError,
)
from paramcrop.evaluation.features import Forward, Normalise
from paramcrop.evaluation.probe import Probe
from paramcrop.evaluation.tasks import pace
from paramcrop.settings.config import Config
from paramcrop.settings.identity import flatten
from paramcrop.storage.checkpoint import newest_checkpoint, steps_done
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.owner import still_held
from paramcrop.training.build import network_dtype
from paramcrop.training.gpu.memory import limit_memory, over_limit
from paramcrop.training.pretrain import pretrain
from paramcrop.training.recorder import Recorder
from ray_jobs.engine.elastic import asked_to_save
from ray_jobs.engine.nodes import check_seen

T = TypeVar("T")
TOGETHER = (NonFiniteLossError, DecodeFailuresError, StorageError)  # raised on every rank at once, see ``pretrain``


def train_worker(job: dict[str, Any]) -> tuple[str, str] | None:
    """Train on one rank -> None, or (class, text) of an error that all ranks raise together.

    Such an error is returned, not raised: Ray Train would restart the workers, only to meet the same error.

    Raises:
        ResourceError: this node does not see the run's folder. Ray Train tries again, perhaps on another node.
    """
    if not job["uri"]:
        check_seen(Path(job["folder"], "config.yaml"))
    config, steps = Config.model_validate(job["config"]), job["steps_per_epoch"]
    device = get_device()
    if device.type == "cpu":  # with more threads than free cores, the threads would wait for each other
        torch.set_num_threads(config.train.threads or job["threads"])
    room = limit_memory(job["memory_share"], device) if job["memory_share"] else None
    place = Mirror.of(job["uri"], f"worker-{dist.rank()}") if job["uri"] else Mirror(Path(job["folder"]))
    resume, passed_over = find_checkpoint(place)
    epoch, step = steps_done(resume)
    tracked = config.run.trackers, flatten(config.model_dump(mode="json"))
    recorder = Recorder(place.folder, step, partial(still_held, job["lease"]), place, *tracked)
    recorder.started(step, epoch, passed_over, device.type)
    shard = ray.train.get_dataset_shard("train")
    batch = config.train.global_batch // dist.world_size()
    rows = shard.iter_batches(batch_size=batch, batch_format="numpy", prefetch_batches=1)
    stream = (to_batch(columns) for columns in own_errors(rows))
    try:
        batches = partial(_next, stream, steps)
        given = recorder, ray.train.report, device, resume, job["classes"], preempted
        pretrain(config, batches, steps, *given, make_probe(config, job["probe"], device))
    except TOGETHER as error:
        return type(error).__name__, str(error)
    except torch.OutOfMemoryError:
        if room is None:
            raise
        return ResourceError.__name__, over_limit(room)
    except ShardError as error:
        if dist.world_size() > 1:  # another rank may be a step ahead, and would wait for this one
            raise
        return type(error).__name__, str(error)
    finally:
        recorder.close()
    return None


def own_errors(rows: Iterable[T]) -> Iterator[T]:
    """The same rows; a task's ParamCropError is raised as itself, not as Ray's error that wraps it."""
    try:
        yield from rows
    except Exception as error:
        raise named_error(str(error)) or error from None


def named_error(text: str) -> ParamCropError | None:
    """The last ParamCropError in the text of a traceback: Ray keeps the text of a task's error, but not its cause."""
    found = re.findall(r"^(?:.*\s)?paramcrop\.errors\.(\w+): (.+)$", text, re.MULTILINE)
    name, message = found[-1] if found else ("", "")
    error: ParamCropError | None = getattr(errors, name)(message) if hasattr(errors, name) else None
    return error


def make_probe(config: Config, folder: str | None, device: torch.device) -> Probe | None:
    """The probe of a run on clips like its views, or None if it has none; nothing is read before its first call."""
    if folder is None:
        return None
    c, normalise = config.cropper, Normalise(config.augment.mean, config.augment.std)
    spec = UniformSpec(clips=1, frames=c.frames, stride=pace(config), size=c.size, decoder=config.data.decoder)
    forward = Forward(normalise, device, network_dtype(config, device))
    return Probe(folder, spec, forward, config.probe.videos, config.data.decode_timeout)


def _next(stream: Iterator[Batch], steps: int, epoch: int) -> Iterator[Batch]:
    """The next ``steps`` batches of the stream. It covers all remaining epochs, so ``epoch`` is not needed."""
    return islice(stream, steps)


def preempted() -> str:
    """Why a checkpoint is wanted at once; "": it is not. Called on every rank.

    A node with a worker is about to be removed, or the number of workers is about to change.
    """
    return "removal" if ray.train.get_preemption_info() is not None else asked_to_save()


def find_checkpoint(place: Mirror) -> tuple[Path | None, list[str]]:
    """The newest intact checkpoint and the damaged ones that were passed over; rank 0 decides for all ranks."""
    name, passed_over = None, list[str]()
    if dist.rank() == 0:
        place.fetch()
        newest, passed_over = newest_checkpoint(place.folder, place.fetch)
        name = newest.name if newest else None
    name, passed_over = dist.gather_objects((name, passed_over))[0]
    if name is None:
        return None, passed_over
    if dist.rank():
        place.fetch(f"checkpoints/{name}/")
    return place.folder / "checkpoints" / name, passed_over
