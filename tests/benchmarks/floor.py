"""The time that Ray itself needs per trial: an empty Train run in a Tune trial, with and without data.

It counts from the end of one trial to the end of the next, so Tune's own work and the trial's process are part of it.

The streamed data costs nothing to make, and the stream has one step where a pretraining has three.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.timing import Line, Report

ROUNDS = 3  # the first does not count, because Ray itself starts up in it


def worker(job: dict[str, Any]) -> None:
    import ray.train

    if job["data"]:
        start = time.time()
        shard = ray.train.get_dataset_shard("train")
        batches = iter(shard.iter_batches(batch_size=32, prefetch_batches=1))
        next(batches)
        Path(job["folder"], "first").write_text(f"{time.time() - start}")
    if job["stay"]:
        list(batches)  # take all: Ray Data's loop uses a core while there is output that nobody takes
        time.sleep(job["stay"])


def same(batch: dict[str, Any]) -> dict[str, Any]:
    return batch


def stream() -> Any:
    import ray.data

    return ray.data.from_items([{"i": i} for i in range(64)], override_num_blocks=8).map_batches(
        same, batch_size=8, num_cpus=0.94
    )


def train(job: dict[str, Any]) -> None:
    """Run Train once. ``job``: folder, whether to stream data, and for how many seconds the worker stays."""
    from ray.train import DataConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    data: Any = {"datasets": {"train": stream}} if job["data"] else {}
    apart: Any = {"worker_runtime_env": {"env_vars": {"A": ""}}}  # gives workers new processes, as in a pretraining
    run = RunConfig(name=f"{time.time_ns()}", storage_path=job["folder"], **apart)
    TorchTrainer(
        worker,
        train_loop_config=job,
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.89}),
        run_config=run,
        dataset_config=DataConfig(enable_shard_locality=False),
        **data,
    ).fit()


def trial(job: dict[str, Any]) -> None:
    import ray.tune

    train(job)
    first = float(Path(job["folder"], "first").read_text()) if job["data"] else 0.0
    ray.tune.report({"end": time.time(), "first": first})


def run(device: str) -> Report:
    import ray
    import ray.tune

    from ray_jobs.engine.connect import connect

    os.environ["RAY_ADDRESS"] = "local"
    connect(ray_logs=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            tuner = ray.tune.Tuner(
                ray.tune.with_resources(trial, {"cpu": 0.01}),
                param_space={"folder": folder, "stay": 0, "data": ray.tune.grid_search([False, True] * ROUNDS)},
                tune_config=ray.tune.TuneConfig(max_concurrent_trials=1),
                run_config=ray.tune.RunConfig(storage_path=folder, verbose=0),
            )
            results = tuner.fit()
            found = [results[i].metrics or {} for i in range(len(results))]
    finally:
        ray.shutdown()
    whole = [m["end"] - before["end"] for before, m in itertools.pairwise(found)]  # of each trial but the first
    lines = [
        Line("an empty Train run", statistics.mean(whole[1::2]), {}),
        Line("one that is given an empty Ray Data stream", statistics.mean(whole[2::2]), {}),
        Line("of it until the first batch", statistics.mean(m["first"] for m in found[3::2]), {}),
    ]
    return Report(
        "Ray's own time in a trial, s", "s", lines, [f"means of {ROUNDS - 1}, taking turns, after one round of each"]
    )
