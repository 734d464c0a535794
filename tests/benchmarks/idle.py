"""The cost of an idle Ray: the same training steps while its processes run and while they are stopped, in turns.

It has a Train run with its actors, and a Ray Data stream that has ended. So on machines with few cores, this is the
limit for steps with decoding in a job on Ray.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

import torch

from paramcrop.data.batch import to_batch
from tests.benchmarks.decode import made_shards
from tests.benchmarks.floor import train
from tests.benchmarks.slices import Side, processes, send
from tests.benchmarks.step import EPOCH, Parts, bare_steps, settings
from tests.benchmarks.timing import Line, Report

TURNS, STEPS, STAY = 10, 4, 3600.0
ALONE, BESIDE = "a bare loop and a DataLoader", "the same beside an idle Ray"


def stay(folder: str) -> None:
    """A Train run that does nothing until it is killed."""
    from ray_jobs.engine.connect import connect

    os.setsid()  # so that its child processes can be stopped with it
    os.environ["RAY_ADDRESS"] = "local"
    connect(ray_logs=False)
    train({"folder": folder, "data": True, "stay": STAY})


def start_idle(folder: str) -> Side:
    process = multiprocessing.get_context("spawn").Process(target=stay, args=(folder,))
    process.start()
    assert process.pid is not None
    side = Side(process.pid, lambda: int(Path(folder, "first").exists()))
    while not side.done():
        if not process.is_alive():
            raise RuntimeError("the idle Train run has ended early")
        time.sleep(1)
    time.sleep(10)  # until start-up work is done
    return side


def taken(device: str, ray: Side, folder: str) -> dict[str, list[float]]:
    """Seconds of each step, with decoding, while ``ray`` is stopped and while it runs."""
    config = settings(device)
    parts = Parts(config, folder, TURNS)
    loader = torch.utils.data.DataLoader(parts, None, collate_fn=dict, num_workers=os.cpu_count() or 1)
    steps = bare_steps(config, (to_batch(part) for part in loader), device)
    found: dict[str, list[float]] = {ALONE: [], BESIDE: []}
    list(itertools.islice(steps, STEPS))
    for name in [ALONE, BESIDE] * (TURNS // 2):
        send(ray, signal.SIGSTOP if name == ALONE else signal.SIGCONT)
        for _ in range(STEPS):
            start = time.perf_counter()
            next(steps)
            found[name].append(time.perf_counter() - start)
    return found


def run(device: str) -> Report:
    batch = settings(device).train.global_batch
    with made_shards(batch * EPOCH) as (folder, _), tempfile.TemporaryDirectory() as runs:
        ray = start_idle(runs)
        try:
            count = len(processes(ray))
            found = taken(device, ray, folder)
        finally:
            send(ray, signal.SIGKILL)
    mean = {name: statistics.mean(seconds) for name, seconds in found.items()}
    views = 2 * batch
    lines = [Line(name, views / mean[name], {"of the first": mean[ALONE] / mean[name]}) for name in mean]
    notes = [
        f"{count} processes of Ray; means of {TURNS // 2} turns of {STEPS} steps each; S3D-G, {batch} videos per step"
    ]
    return Report("a loop beside an idle Ray, clips (views) per second", "clips/s", lines, notes)
