"""Decoding, in windows of 64 frames per second: Ray Data up to the trainer, compared with a limit and a peer.

The limit: bare calls of the same decoder on all cores, with one copy into shared memory and one out of it. The peer: a
torch DataLoader with the same function. Every video gives two windows in one pass.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.shared_memory import SharedMemory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from paramcrop.data.clips import ClipSpec, cut_sample, with_planes
from paramcrop.data.manifest import Manifest, read_manifest
from paramcrop.data.shards import read_videos
from paramcrop.data.synthetic import make_dataset
from paramcrop.data.video import X264
from tests.benchmarks.timing import Line, Report
from tests.data.test_decoders import has_torchcodec

SPEC = with_planes(ClipSpec(), 128)  # the paper's: 64 x 128 x 128, R1 and R2 on
OTHERS = [ClipSpec(decoder="decord"), *[ClipSpec(decoder="torchcodec")] * has_torchcodec()]
VIDEOS, LENGTH, BATCH, ROUNDS = 384, 160, 16, 2
CORES = os.cpu_count() or 1


@contextmanager
def made_shards(videos: int = VIDEOS, tune: str = "fastdecode") -> Iterator[tuple[str, Manifest]]:
    """Videos of 128 x 170 with a keyframe every 16 frames, as `paramcrop prepare` writes them, or wrote them before."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(X264, {"tune": tune} if tune else {}):
        if not tune:
            del X264["tune"]
        make_dataset(folder, count=videos, frames=LENGTH, height=128, width=170)
        yield folder, read_manifest(folder)


def rows_of(folder: str) -> list[dict[str, Any]]:
    return [{"id": video.id, "video": video.video} for video in read_videos(folder)]


_slot: SharedMemory | None = None


def _attach(names: Any) -> None:
    global _slot
    torch.set_num_threads(1)  # as in Ray's tasks: there is a process for each core
    _slot = SharedMemory(names.get())


def _bare(row: dict[str, Any], spec: ClipSpec) -> tuple[str, tuple[int, ...]]:
    assert _slot is not None
    clips = cut_sample(row, spec, 0, 0)["video"]
    np.copyto(np.ndarray(clips.shape, np.uint8, _slot.buf), clips)
    return _slot.name, clips.shape


def bare(rows: list[dict[str, Any]], spec: ClipSpec = SPEC) -> float:
    """Windows/s; the processes start before the clock does."""
    context = multiprocessing.get_context("spawn")
    slots = [SharedMemory(create=True, size=2 * 64 * 128 * 128 * 3) for _ in range(CORES)]
    names = context.Queue()
    for slot in slots:
        names.put(slot.name)
    by_name = {slot.name: slot for slot in slots}
    with context.Pool(CORES, _attach, (names,)) as pool:
        pool.map(partial(_bare, spec=spec), rows[: 2 * CORES], chunksize=1)
        start = time.perf_counter()
        for name, shape in pool.imap_unordered(partial(_bare, spec=spec), rows):
            np.array(np.ndarray(shape, np.uint8, by_name[name].buf))
        seconds = time.perf_counter() - start
    for slot in slots:
        slot.close()
        slot.unlink()
    return 2 * len(rows) / seconds


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    def __init__(self, rows: list[dict[str, Any]], spec: ClipSpec) -> None:
        self.rows, self.spec = rows, spec

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return cut_sample(self.rows[i], self.spec, 0, 0)


def loader(rows: list[dict[str, Any]], spec: ClipSpec = SPEC) -> float:
    """Windows/s from the first batch on."""
    batches = torch.utils.data.DataLoader(Rows(rows, spec), BATCH, num_workers=CORES, prefetch_factor=2)
    return steady(len(batch["video"]) for batch in batches)


def ray_data(folder: str, manifest: Manifest, epochs: int = 1, spec: ClipSpec = SPEC) -> float:
    """Windows/s from the first batch on, in full batches as a trainer gets them."""
    from paramcrop.data.samples import TrainingSet
    from ray_jobs.engine.ingest import Decoding, execution_options, rows_per_block, training_samples
    from ray_jobs.engine.plans.plan import Node, decoders_per_task

    decoders = decoders_per_task([Node(CORES)], CORES)
    block = rows_per_block(BATCH, spec, decoders=decoders)
    videos, decoding = TrainingSet(folder, manifest, 0, BATCH), Decoding(block, 60.0, decoders=decoders)
    samples = training_samples(videos, spec, range(epochs), decoding)
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


def core_ms(rows: list[dict[str, Any]], spec: ClipSpec) -> float:
    """Milliseconds of a core for each window, in this process; the best of some rounds, since others take turns."""
    times = list[float]()
    for _ in range(5):
        start = time.process_time()
        for row in rows:
            cut_sample(row, spec, 0, 0)
        times.append(time.process_time() - start)
    return min(times) / len(rows) / 2 * 1000


def run(device: str) -> Report:
    import ray

    quiet_ray(CORES)
    torch.set_num_threads(1)  # threads that wait for work count as time of a core
    lines = list[Line]()
    try:
        for version, tune in (("", "fastdecode"), (", shards of format 2", "")):
            with made_shards(tune=tune) as (folder, manifest):
                rows = rows_of(folder)
                kept = [] if version else [("planes, kept by data.cache", replace(SPEC, cache=f"{folder}/kept"))]
                for name, spec in (("planes", SPEC), *((other.decoder, other) for other in OTHERS), *kept):
                    limit = max(bare(rows, spec) for _ in range(ROUNDS))
                    rate = max(ray_data(folder, manifest, spec=spec) for _ in range(ROUNDS))
                    more = {"limit": limit, "of the limit": rate / limit, "ms of a core": core_ms(rows[:8], spec)}
                    more |= {"MB sent": cut_sample(rows[0], spec, 0, 0)["video"].nbytes / 2e6}
                    more |= {"KB stored": sum(len(row["video"]) for row in rows) / len(rows) / 1e3}
                    lines.append(Line(f"{name}{version}", rate, more))
                if not version:
                    lines.append(Line("torch DataLoader, planes (peer)", max(loader(rows) for _ in range(ROUNDS)), {}))
    finally:
        ray.shutdown()
    notes = [
        f"{CORES} cores; best of {ROUNDS}; both windows of a video from one pass; target: 0.85 of the limit",
        "ms of a core, MB sent: for a window, up to the trainer; KB stored: for a video",
    ]
    return Report("decoding, windows of 64 frames per second, steady", "windows/s", lines, notes)
