"""Twenty epochs of 512 windows through Ray Data: the pace over all of them, the gap between two, memory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.decode import BATCH, CORES, SPEC, bare, made_shards, quiet_ray, rows_of
from tests.benchmarks.timing import Line, Report

EPOCHS, VIDEOS = 20, 256


def memory() -> int:
    """Proportional set size of all processes of this one's session, bytes."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == os.getsid(0):
                text = (folder / "smaps_rollup").read_text()
                total += 1024 * int(text.split("Pss:")[1].split()[0])
        except (OSError, IndexError, ValueError):
            continue
    return total


def run(device: str) -> Report:
    import ray

    from ray_jobs.engine.ingest import execution_options, rows_per_block, training_samples
    from ray_jobs.engine.plan import Node, decoders_per_task

    quiet_ray(CORES)
    try:
        with made_shards(VIDEOS) as (folder, manifest):
            before = bare(rows_of(folder))
            decoders = decoders_per_task([Node(CORES)], CORES)
            block = rows_per_block(BATCH, SPEC, decoders=decoders)
            given = folder, manifest, SPEC, 0, range(EPOCHS), BATCH, 8, block, 60.0
            samples = training_samples(*given, decoders=decoders)
            samples.context.execution_options = execution_options(CORES)
            start = time.perf_counter()
            times, peaks = list[float](), list[int]()
            for i, _ in enumerate(samples.iter_batches(batch_size=BATCH, batch_format="numpy", prefetch_batches=1)):
                times.append(time.perf_counter())
                if (i + 1) % (VIDEOS // BATCH) == 0:
                    peaks.append(memory())
            limit = (before + bare(rows_of(folder))) / 2  # the machine is not the same for minutes
    finally:
        ray.shutdown()
    steps = VIDEOS // BATCH
    whole = 2 * VIDEOS * EPOCHS / (times[-1] - start)
    steady = 2 * (VIDEOS * EPOCHS - BATCH) / (times[-1] - times[0])
    gaps = [times[i] - times[i - 1] for i in range(steps, len(times), steps)]
    usual = (times[-1] - times[0]) / (len(times) - 1)
    lines = [
        Line("bare decord, two copies (limit), windows/s", limit, {}),
        Line("twenty epochs, start-up included, windows/s", whole, {"of the limit": whole / limit}),
        Line("from the first batch on, windows/s", steady, {"of the limit": steady / limit}),
        Line("from an epoch's last batch to the next one's, s", median(gaps), {"worst": max(gaps), "usual": usual}),
        Line("memory after the second epoch, GB", peaks[1] / 1e9, {}),
        Line("memory after the last, GB", peaks[-1] / 1e9, {"of the second's": peaks[-1] / peaks[1]}),
        Line("most, GB", max(peaks[1:]) / 1e9, {"of the second's": max(peaks[1:]) / peaks[1]}),
    ]
    after = " ".join(f"{peak / 1e9:.1f}" for peak in peaks)
    notes = ["bars: 0.80 of the limit; 0.5 s; memory flat", f"GB after each: {after}"]
    return Report("twenty epochs of 512 windows", "", lines, notes)
