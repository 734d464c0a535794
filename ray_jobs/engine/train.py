"""One pretraining as a Ray Train job: what the driver does."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from paramcrop import errors
from paramcrop.data.clips import with_planes
from paramcrop.data.killable import KEEP_MEMORY
from paramcrop.data.labels import labelled_rows
from paramcrop.data.manifest import Manifest
from paramcrop.data.order import Labelled, steps_per_epoch
from paramcrop.data.samples import TrainingSet
from paramcrop.errors import ParamCropError
from paramcrop.settings.config import Config
from paramcrop.storage.checkpoint import newest_checkpoint, steps_done
from paramcrop.storage.mirror import Mirror
from paramcrop.training.build import build_clip_spec
from ray_jobs.engine.elastic import LOOK, Dealing, Resizing, plan_now
from ray_jobs.engine.ingest import Decoding, execution_options, reader_count, rows_per_block, training_samples
from ray_jobs.engine.nodes import orphans_removed
from ray_jobs.engine.plans.elastic import Elastic
from ray_jobs.engine.plans.plan import Plan
from ray_jobs.engine.ray_private import linked_errors, with_policy
from ray_jobs.engine.worker import train_worker
from ray_jobs.options import probe_data

CONTROLLER_FAILURES = 10  # by default, Ray retries an impossible start for ever


@dataclass(frozen=True)
class Pretraining:
    """One run and everything needed to train it.

    Attributes:
        config: settings of the run.
        plan: the run's share of the cluster.
        data, manifest: folder or URI of the shards, and their manifest.
        place: folder or bucket of the run, accessible from every node.
        lease: path of this process's lease on the run.
        elastic: how the number of workers may change; None: it may not.
        who: the name of this command's claims on the cluster.
    """

    config: Config
    plan: Plan
    data: str
    manifest: Manifest
    place: Mirror
    lease: str
    elastic: Elastic | None = None
    who: str = ""

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.manifest.videos, self.config.train.global_batch, self.config.labelled_rows)


def run_pretraining(run: Pretraining) -> None:
    """Train, from the newest intact checkpoint if there is one, and wait for the end. Not for the main thread.

    If workers die, Ray Train restarts them from the newest checkpoint, up to ``train.max_restarts`` times; if their
    number may change, so many times without a new checkpoint.

    Raises:
        ParamCropError: a worker raised it.
        ray.train.TrainingFailedError: any other failure.
    """
    reached = _reached(run)
    while True:
        try:
            return _train(run)
        except ray.train.TrainingFailedError:
            before, reached = reached, _reached(run)
            if reached <= before:
                raise


def _reached(run: Pretraining) -> int:
    """The step of the newest intact checkpoint of a run whose workers may change; 0: they may not."""
    return steps_done(newest_checkpoint(run.place.folder, run.place.fetch)[0])[1] if run.elastic else 0


def _train(run: Pretraining) -> None:
    """``run_pretraining`` once."""
    config, plan, place, lease = run.config, run.plan, run.place, run.lease
    job = {"config": config.model_dump(), "steps_per_epoch": run.steps_per_epoch, "threads": plan.threads}
    job |= {"classes": run.manifest.classes, "probe": probe_data(config), "memory_share": plan.memory_share}
    trainer_class, workers, datasets = _dealt(run, labelled_videos(config, run.data, run.manifest))
    failures: Any = {"max_failures": config.train.max_restarts, "controller_failure_limit": CONTROLLER_FAILURES}
    environment: Any = {} if plan.use_gpu else {"worker_runtime_env": {"env_vars": KEEP_MEMORY}}
    function: Any = train_worker  # Ray's types know neither its return value nor that of ``fit``
    trainer: Any = trainer_class(
        function,
        train_loop_config=job | {"folder": str(place.folder), "uri": place.uri, "lease": lease},
        scaling_config=ScalingConfig(
            **workers,
            use_gpu=plan.use_gpu,
            resources_per_worker={"CPU": plan.worker_cpus} | ({"GPU": plan.worker_gpus} if plan.use_gpu else {}),
        ),
        torch_config=TorchConfig(timeout_s=600),
        run_config=RunConfig(  # a new name each time: with a known one, Ray Train would resume from its own checkpoints
            name=f"{Path(lease).stem}-{os.getpid()}-{time.time_ns()}",  # one process may train several runs
            storage_path=f"{place.uri}/ray_train" if place.uri else str(place.folder / "ray_train"),
            failure_config=FailureConfig(**failures),
            **environment,
        ),
        **datasets,
    )
    try:
        with orphans_removed():
            error = trainer.fit().return_value
    except ray.train.TrainingFailedError as failure:
        raise own_error(failure) or failure from None
    if error is not None:
        name, text = error
        raise getattr(errors, name)(text)


def _dealt(run: Pretraining, labelled: Labelled | None) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The trainer's class, and its arguments about workers and data."""
    own = with_policy(TorchTrainer, Resizing, run.elastic, run.who) if run.elastic is not None else None
    if run.elastic is None or own is None:
        options = execution_options(run.plan.data_cpus)
        config = DataConfig(execution_options=options, enable_shard_locality=False)
        data: dict[str, Any] = {"datasets": {"train": partial(make_dataset, run, labelled)}, "dataset_config": config}
        return TorchTrainer, {"num_workers": run.plan.workers}, data
    counts = run.elastic.counts
    workers: dict[str, Any] = {"num_workers": (counts[0], counts[-1]), "elastic_resize_monitor_interval_s": LOOK}
    workers["placement_strategy"] = "PACK" if run.plan.use_gpu else "SPREAD"  # CPU workers have the size of a machine's
    return own, workers, {"datasets": {"train": partial(_dealer, run, labelled)}, "dataset_config": Dealing()}


def _dealer(run: Pretraining, labelled: Labelled | None) -> Any:
    """What ``Dealing`` takes for a dataset: Ray Train makes datasets before it knows the number of workers."""
    return partial(deal, run, labelled)


def deal(run: Pretraining, labelled: Labelled | None, workers: int) -> tuple[ray.data.Dataset, Any]:
    """The samples of the remaining epochs for this number of workers, and options with the CPUs that they leave."""
    assert run.elastic is not None
    plan = plan_now(run.elastic, run.who, workers)
    return make_dataset(replace(run, plan=plan), labelled), execution_options(plan.data_cpus)


def make_dataset(run: Pretraining, labelled: Labelled | None) -> ray.data.Dataset:
    """The samples of the remaining epochs. Ray Train calls this in its controller, at every start of the workers."""
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = 4 * 3600  # a long pause is not a failure
    config, plan, steps = run.config, run.plan, run.steps_per_epoch
    spec = with_planes(build_clip_spec(config), run.manifest.short_side)
    place = Mirror.of(run.place.uri, "controller") if run.place.uri else run.place
    place.fetch()
    done, step = steps_done(newest_checkpoint(place.folder, place.fetch)[0])
    batch, window = config.train.global_batch, config.data.shuffle_row_groups
    videos = TrainingSet(run.data, run.manifest, config.seed, batch, window, labelled)
    block_rows = rows_per_block(batch // plan.workers, spec, config.data.task_rows, plan.decoders)
    decoding = Decoding(block_rows, config.data.decode_timeout, reader_count(plan.data_cpus), plan.decoders)
    epochs = range(done, ceil(config.total_steps(steps) / steps))
    return training_samples(videos, spec, epochs, decoding, skip=(step - done * steps) * batch)


def labelled_videos(config: Config, data: str, manifest: Manifest) -> Labelled | None:
    """The videos whose labels the method may use, and their number per batch; None if the method uses no labels.

    Raises:
        DataError: no video has a class.
    """
    if not config.labelled_rows:
        return None
    rows = labelled_rows(data, manifest, config.data.labels, config.seed)
    return Labelled(config.train.global_batch, config.labelled_rows, rows)


def own_error(error: BaseException) -> ParamCropError | None:
    """The first ParamCropError among an error's causes and its workers' failures."""
    todo, seen = [error], set[int]()
    while todo:
        current = todo.pop(0)
        if isinstance(current, ParamCropError):
            return current
        if id(current) not in seen:
            seen.add(id(current))
            todo += linked_errors(current)
    return None
