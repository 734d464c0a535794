"""Twenty epochs of 512 windows through Ray Data: the pace with and without the start, gaps, memory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.benchmarks.decode import BATCH, CORES, SPEC, bare, made_shards, quiet_ray, rows_of
from tests.benchmarks.timing import Line, Report

EPOCHS, VIDEOS = 20, 256
STEPS = VIDEOS // BATCH  # of an epoch
LOOKS = (2, 5, 10, 15, 20)  # the epochs after which memory is measured: it takes a twentieth of an epoch's time


class Memory(NamedTuple):
    """Memory in GB of all processes of this session.

    Attributes:
        own: the processes' own memory.
        store: the pages of Ray's object store that any process has touched. New blocks are not always placed where old
            ones were freed, so this grows over many epochs, up to the size of the store, even if usage is constant.
    """

    own: float
    store: float


def memory() -> Memory:
    """The memory in use, by proportional set size."""
    total = {"Pss:": 0, "Pss_Shmem:": 0}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == os.getsid(0):
                text = (folder / "smaps_rollup").read_text()
                for name in total:
                    total[name] += 1024 * int(text.split(name)[1].split()[0])
        except (OSError, IndexError, ValueError):
            continue
    return Memory((total["Pss:"] - total["Pss_Shmem:"]) / 1e9, total["Pss_Shmem:"] / 1e9)


def run(device: str) -> Report:
    import ray

    from paramcrop.data.samples import TrainingSet
    from ray_jobs.engine.ingest import Decoding, execution_options, rows_per_block, training_samples
    from ray_jobs.engine.plans.plan import Node, decoders_per_task

    quiet_ray(CORES)
    try:
        with made_shards(VIDEOS) as (folder, manifest):
            before = bare(rows_of(folder))
            decoders = decoders_per_task([Node(CORES)], CORES)
            block = rows_per_block(BATCH, SPEC, decoders=decoders)
            videos, decoding = TrainingSet(folder, manifest, 0, BATCH), Decoding(block, 60.0, decoders=decoders)
            samples = training_samples(videos, SPEC, range(EPOCHS), decoding)
            samples.context.execution_options = execution_options(CORES)
            start = time.perf_counter()
            times, looks = list[float](), list[Memory]()
            for i, _ in enumerate(samples.iter_batches(batch_size=BATCH, batch_format="numpy", prefetch_batches=1)):
                times.append(time.perf_counter())
                if (i + 1) / STEPS in LOOKS:
                    looks.append(memory())
            limit = (before + bare(rows_of(folder))) / 2  # measured before and after: the machine's speed drifts
    finally:
        ray.shutdown()
    whole = 2 * VIDEOS * EPOCHS / (times[-1] - start)
    steady = 2 * VIDEOS * (EPOCHS - 2) / (times[-1] - times[2 * STEPS - 1])
    gaps = [times[i] - times[i - 1] for i in range(STEPS, len(times), STEPS)]
    usual = (times[-1] - times[0]) / (len(times) - 1)
    early, late = looks[0], looks[-1]
    lines = [
        Line("the decoder alone, two copies (limit), windows/s", limit, {}),
        Line("twenty epochs, start-up included, windows/s", whole, {"of the limit": whole / limit}),
        Line("from the third epoch on, windows/s", steady, {"of the limit": steady / limit}),
        Line("from an epoch's last batch to the next one's, s", median(gaps), {"worst": max(gaps), "usual": usual}),
        Line("the processes' memory after the second epoch, GB", early.own, {}),
        Line("the same after the last, GB", late.own, {"of the second's": late.own / early.own}),
        Line("the object store's after the second epoch, GB", early.store, {}),
        Line("the same after the last, GB", late.store, {"of the second's": late.store / early.store}),
    ]
    sizes = " ".join(f"{own:.2f}+{store:.2f}" for own, store in looks)
    notes = [
        "targets: 0.85 of the limit without the start; 0.5 s; constant memory",
        f"GB after epochs {LOOKS}, processes + store: {sizes}",
    ]
    return Report("twenty epochs of 512 windows", "", lines, notes)
