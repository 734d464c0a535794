"""Decoding, in windows of 64 frames a second: Ray Data to the trainer's hands, beside a limit and a peer.

The limit: bare decord calls on all cores, one copy into shared memory and one out of it, nothing else. The peer: a
torch DataLoader with the same function. Two windows a video, from one pass over it.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paramcrop.data.clips import ClipSpec, cut_sample
from paramcrop.data.shards import Manifest, read_manifest, read_videos
from paramcrop.data.synthetic import make_dataset
from tests.benchmarks.slices import SLICE, Side, in_slices, lines_in
from tests.benchmarks.timing import Line, Report

SPEC = ClipSpec()  # the paper's: 64 x 128 x 128, R1 and R2 on
VIDEOS, LENGTH, BATCH = 384, 160, 16
STEPS, EPOCHS = 100, 40  # batches that are timed of each; epochs that there are, for who is ahead goes on meanwhile
LIMIT, PEER, OURS = "bare decord, two copies (limit)", "torch DataLoader (peer)", "Ray Data"
CORES = os.cpu_count() or 1


@contextmanager
def made_shards(videos: int = VIDEOS) -> Iterator[tuple[str, Manifest]]:
    """Videos of 128 x 170 with a keyframe every 16 frames, as prepare.py writes them."""
    with tempfile.TemporaryDirectory() as folder:
        make_dataset(folder, count=videos, frames=LENGTH, height=128, width=170)
        yield folder, read_manifest(folder)


def rows_of(folder: str) -> list[dict[str, Any]]:
    return [{"id": video.id, "video": video.video} for video in read_videos(folder)]


_slot: SharedMemory | None = None


def _attach(names: Any) -> None:
    global _slot
    _slot = SharedMemory(names.get())


def _bare(row: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    assert _slot is not None
    clips = cut_sample(row, SPEC, 0, 0)["video"]
    np.copyto(np.ndarray(clips.shape, np.uint8, _slot.buf), clips)
    return _slot.name, clips.shape


def bare(rows: list[dict[str, Any]]) -> Iterator[None]:
    """One by one; the processes are there before the first."""
    context = multiprocessing.get_context("spawn")
    slots = [SharedMemory(create=True, size=2 * 64 * 128 * 128 * 3) for _ in range(CORES)]
    names = context.Queue()
    for slot in slots:
        names.put(slot.name)
    by_name = {slot.name: slot for slot in slots}
    with context.Pool(CORES, _attach, (names,)) as pool:
        pool.map(_bare, rows[: 2 * CORES], chunksize=1)
        yield
        for name, shape in pool.imap_unordered(_bare, rows):
            np.array(np.ndarray(shape, np.uint8, by_name[name].buf))
            yield
    for slot in slots:
        slot.close()
        slot.unlink()


def bare_rate(rows: list[dict[str, Any]]) -> float:
    """Windows/s of ``bare``."""
    done = bare(rows)
    next(done)
    start = time.perf_counter()
    return 2 * sum(1 for _ in done) / (time.perf_counter() - start)


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return cut_sample(self.rows[i], SPEC, 0, 0)


def bare_batches(folder: str) -> Iterator[None]:
    """A batch's worth at a time, over and over."""
    yield from itertools.islice(bare(EPOCHS * rows_of(folder)), BATCH, None, BATCH)


def loader_batches(folder: str) -> Iterator[None]:
    data = Rows(EPOCHS * rows_of(folder))
    for _ in torch.utils.data.DataLoader(data, BATCH, num_workers=CORES, prefetch_factor=2):
        yield


def ray_batches(folder: str) -> Iterator[None]:
    """Whole batches as a trainer gets them."""
    from ray_jobs.engine.ingest import execution_options, rows_per_task, training_samples

    quiet_ray(CORES)
    given = folder, read_manifest(folder), SPEC, 0, range(EPOCHS), BATCH, 8, rows_per_task(BATCH, SPEC), 60.0
    samples = training_samples(*given)
    samples.context.execution_options = execution_options(CORES)
    for _ in samples.iter_batches(batch_size=BATCH, batch_format="numpy", prefetch_batches=2):
        yield


def count(batches: Callable[[str], Iterator[None]], folder: str, counted: Path) -> None:
    """A line in ``counted`` for each batch."""
    os.setsid()  # what it starts is stopped with it
    with counted.open("w", buffering=1) as file:
        for _ in batches(folder):
            print(time.time(), file=file)


def start(batches: Callable[[str], Iterator[None]], folder: str, counted: Path) -> Side:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=count, args=(batches, folder, counted))
    process.start()
    assert process.pid is not None
    return Side(process.pid, partial(lines_in, counted))


def quiet_ray(cores: int) -> None:
    """A Ray of this machine that tells only of errors."""
    import ray
    import ray.data  # sets up its own log when it is imported

    ray.init(num_cpus=cores, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def run(device: str) -> Report:
    ways = {LIMIT: bare_batches, PEER: loader_batches, OURS: ray_batches}
    with made_shards() as (folder, _), tempfile.TemporaryDirectory() as counted:
        sides = {name: partial(start, way, folder, Path(counted) / way.__name__) for name, way in ways.items()}
        seconds = in_slices(sides, STEPS)
    rates = {name: 2 * BATCH / taken for name, taken in seconds.items()}
    lines = [Line(name, rate, {"of the limit": rate / rates[LIMIT]}) for name, rate in rates.items()]
    notes = [
        f"{CORES} cores; {STEPS} batches of {BATCH} videos, the programs taking turns of {SLICE:.0f} s",
        "both windows of a video from one pass; bar: 0.85 of the limit",
    ]
    return Report("decoding, windows of 64 frames a second, steady", "windows/s", lines, notes)
