"""Decoding, in windows of 64 frames per second: Ray Data up to the trainer, compared with a limit and a peer.

The limit: bare decord calls on all cores, with one copy into shared memory and one out of it. The peer: a torch
DataLoader with the same function. Every video gives two windows in one pass.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import torch

from paramcrop.data.clips import ClipSpec, cut_sample
from paramcrop.data.manifest import Manifest, read_manifest
from paramcrop.data.shards import read_videos
from paramcrop.data.synthetic import make_dataset
from tests.benchmarks.timing import Line, Report

SPEC = ClipSpec()  # the paper's: 64 x 128 x 128, R1 and R2 on
VIDEOS, LENGTH, BATCH, ROUNDS = 384, 160, 16, 2
CORES = os.cpu_count() or 1


@contextmanager
def made_shards(videos: int = VIDEOS) -> Iterator[tuple[str, Manifest]]:
    """Videos of 128 x 170 with a keyframe every 16 frames, as `paramcrop prepare` writes them."""
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


def bare(rows: list[dict[str, Any]]) -> float:
    """Windows/s; the processes start before the clock does."""
    context = multiprocessing.get_context("spawn")
    slots = [SharedMemory(create=True, size=2 * 64 * 128 * 128 * 3) for _ in range(CORES)]
    names = context.Queue()
    for slot in slots:
        names.put(slot.name)
    by_name = {slot.name: slot for slot in slots}
    with context.Pool(CORES, _attach, (names,)) as pool:
        pool.map(_bare, rows[: 2 * CORES], chunksize=1)
        start = time.perf_counter()
        for name, shape in pool.imap_unordered(_bare, rows):
            np.array(np.ndarray(shape, np.uint8, by_name[name].buf))
        seconds = time.perf_counter() - start
    for slot in slots:
        slot.close()
        slot.unlink()
    return 2 * len(rows) / seconds


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return cut_sample(self.rows[i], SPEC, 0, 0)


def loader(rows: list[dict[str, Any]]) -> float:
    """Windows/s from the first batch on."""
    batches = torch.utils.data.DataLoader(Rows(rows), BATCH, num_workers=CORES, prefetch_factor=2)
    return steady(len(batch["video"]) for batch in batches)


def ray_data(folder: str, manifest: Manifest, epochs: int = 1) -> float:
    """Windows/s from the first batch on, in full batches as a trainer gets them."""
    from paramcrop.data.samples import TrainingSet
    from ray_jobs.engine.ingest import Decoding, execution_options, rows_per_block, training_samples
    from ray_jobs.engine.plan import Node, decoders_per_task

    decoders = decoders_per_task([Node(CORES)], CORES)
    block = rows_per_block(BATCH, SPEC, decoders=decoders)
    videos, decoding = TrainingSet(folder, manifest, 0, BATCH), Decoding(block, 60.0, decoders=decoders)
    samples = training_samples(videos, SPEC, range(epochs), decoding)
    samples.context.execution_options = execution_options(CORES)
    batches = samples.iter_batches(batch_size=BATCH, batch_format="numpy", prefetch_batches=1)
    return steady(len(batch["id"]) for batch in batches)


def steady(counts: Iterator[int]) -> float:
    """Windows/s from the first batch on, without the start. Few of the windows are decoded ahead by then."""
    next(counts)
    start, total = time.perf_counter(), 0
    for count in counts:
        total += count
    return 2 * total / (time.perf_counter() - start)


def quiet_ray(cores: int) -> None:
    """Start a Ray on this machine that logs only errors."""
    import ray
    import ray.data  # importing it sets up its log

    ray.init(num_cpus=cores, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def run(device: str) -> Report:
    import ray

    quiet_ray(CORES)
    try:
        with made_shards() as (folder, manifest):
            rows = rows_of(folder)
            ways: dict[str, Callable[[], float]] = {
                "bare decord, two copies (limit)": partial(bare, rows),
                "torch DataLoader (peer)": partial(loader, rows),
                "Ray Data": partial(ray_data, folder, manifest),
            }
            found = {name: max(way() for _ in range(ROUNDS)) for name, way in ways.items()}
    finally:
        ray.shutdown()
    limit = next(iter(found.values()))
    lines = [Line(name, rate, {"of the limit": rate / limit}) for name, rate in found.items()]
    notes = [f"{CORES} cores; best of {ROUNDS}; both windows of a video from one pass; target: 0.85 of the limit"]
    return Report("decoding, windows of 64 frames per second, steady", "windows/s", lines, notes)
