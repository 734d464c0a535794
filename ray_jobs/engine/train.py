"""One pretraining as a Ray Train job: what each worker does, and what the driver does."""

from __future__ import annotations

from functools import partial
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from paramcrop.batch import to_batch
from paramcrop.build import build_clip_spec
from paramcrop.config import Config
from paramcrop.data.order import steps_per_epoch
from paramcrop.data.shards import Manifest
from paramcrop.errors import ParamCropError
from paramcrop.pretrain import pretrain
from paramcrop.record import Recorder
from ray_jobs.engine.ingest import execution_options, rows_per_task, training_samples
from ray_jobs.engine.plan import Plan

FAILURES: dict[str, Any] = {"controller_failure_limit": 10}  # Ray's default retries a start that cannot be for ever


def train_worker(job: dict[str, Any]) -> None:
    """Runs on every rank."""
    config, steps = Config.model_validate(job["config"]), job["steps_per_epoch"]
    device = get_device()
    if device.type == "cpu":  # more threads than cores that are free, and they wait for each other
        torch.set_num_threads(config.train.threads or job["threads"])
    shard = ray.train.get_dataset_shard("train")
    rows = shard.iter_batches(batch_size=config.batch_per_worker, batch_format="numpy", prefetch_batches=2)
    stream = (to_batch(columns) for columns in rows)
    recorder = Recorder(Path(job["folder"]))
    try:
        pretrain(config, lambda epoch: islice(stream, steps), steps, recorder, ray.train.report, device)
    finally:
        recorder.close()


def run_pretraining(config: Config, plan: Plan, data: str, manifest: Manifest, folder: Path) -> None:
    """Train and wait for the end.

    Args:
        data: folder or URI of shards. folder: the run's, absolute, seen by every node.

    Raises:
        ParamCropError: what a worker raised, if it is one of ours.
        ray.train.TrainingFailedError: any other failure.
        KeyboardInterrupt: Ctrl-C; the workers have been stopped.
    """
    steps = steps_per_epoch(manifest.videos, config.train.global_batch)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "config": config.model_dump(),
            "steps_per_epoch": steps,
            "folder": str(folder),
            "threads": plan.threads,
        },
        scaling_config=ScalingConfig(
            num_workers=plan.workers,
            use_gpu=plan.use_gpu,
            resources_per_worker={"CPU": plan.worker_cpus} | ({"GPU": 1} if plan.use_gpu else {}),
        ),
        torch_config=TorchConfig(timeout_s=600),
        run_config=RunConfig(name="ray_train", storage_path=str(folder), failure_config=FailureConfig(**FAILURES)),
        datasets={"train": partial(make_dataset, config, data, manifest, steps)},
        dataset_config=DataConfig(execution_options=execution_options(plan.data_cpus), enable_shard_locality=False),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise own_error(error) or error from None
    except SystemExit:  # Ray Train takes Ctrl-C, aborts its workers, and ends the process without a word
        raise KeyboardInterrupt from None


def make_dataset(config: Config, data: str, manifest: Manifest, steps: int) -> ray.data.Dataset:
    """Called by Ray Train on its controller, at every start of the workers."""
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = 4 * 3600  # a long pause is not a fault
    spec = build_clip_spec(config)
    return training_samples(
        data,
        manifest,
        spec,
        config.seed,
        range(ceil(config.total_steps(steps) / steps)),
        steps * config.train.global_batch,
        config.data.shuffle_row_groups,
        rows_per_task(config.batch_per_worker, spec, config.data.task_rows),
    )


def own_error(error: BaseException) -> ParamCropError | None:
    """The first error of ours among an error's causes and its workers' failures."""
    todo, seen = [error], set[int]()
    while todo:
        current = todo.pop(0)
        if isinstance(current, ParamCropError):
            return current
        if id(current) not in seen:
            seen.add(id(current))
            todo += list(getattr(current, "worker_failures", {}).values())
            linked = [
                getattr(current, name, None) for name in ("_base_exc", "cause", "__cause__", "controller_failure")
            ]
            todo += [e for e in linked if isinstance(e, BaseException)]
    return None
