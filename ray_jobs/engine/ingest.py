"""Ray Data: shards -> decoded samples, in one order however many workers take them.

The rows of every epoch are listed beforehand (``paramcrop.data.order``). One task reads a segment of them, still
encoded; CPU tasks on any node decode a few rows each into one block of exactly ``task_rows``. Blocks are kept in order,
so ``streaming_split`` deals them out in turn, and a global batch holds the same videos for 1 worker or 8.

One execution spans all epochs: nothing starts up between two of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import Dataset, ExecutionOptions, ExecutionResources, TaskPoolStrategy

from paramcrop.data.clips import ClipSpec, cut_batch
from paramcrop.data.order import Segment, epoch_segments
from paramcrop.data.reader import read_segment
from paramcrop.data.shards import Manifest

READ_CPUS = 0.1  # a read task waits for storage, it does not compute
READ_TASKS = 2
MOST_TASK_ROWS = 32
MOST_TASK_BYTES = 96 * 2**20  # Ray Data cuts blocks above 128 MiB, and a cut block is dealt to the wrong worker


def training_samples(
    folder: str, manifest: Manifest, spec: ClipSpec, seed: int, epochs: range, rows: int, window: int, task_rows: int
) -> Dataset:
    """Every sample of ``epochs``, ``rows`` in each, in blocks of exactly ``task_rows`` (a divisor of ``rows``).

    Columns are ``paramcrop.data.clips.cut_batch``'s.
    """
    order = partial(epoch_segments, manifest, seed, rows=rows, window=window)
    # A task a segment. Only the segment's place travels; the task works out what is in it.
    places = [{"epoch": epoch, "segment": i} for epoch in epochs for i in range(len(order(epoch)))]
    encoded = ray.data.from_items(places, override_num_blocks=len(places)).map_batches(
        partial(_read, folder=folder, order=order),
        batch_size=1,
        batch_format="numpy",
        num_cpus=READ_CPUS,
        compute=TaskPoolStrategy(size=READ_TASKS),
    )
    decoded = encoded.map_batches(
        partial(_decode, spec=spec, seed=seed), batch_size=task_rows, batch_format="pyarrow", num_cpus=1
    )
    # Fused with the decoding, this makes each of its tasks take, and give, exactly task_rows rows.
    return decoded.repartition(target_num_rows_per_block=task_rows, strict=True)


def execution_options(cpus: float) -> ExecutionOptions:
    """At most ``cpus`` for reading and decoding; blocks in order."""
    return ExecutionOptions(resource_limits=ExecutionResources.for_limits(cpu=cpus), preserve_order=True)


def rows_per_task(batch_per_worker: int, spec: ClipSpec, most: int | None = None) -> int:
    """The largest divisor of a worker's batch whose decoded rows stay within one block."""
    row = spec.clips * spec.frames * spec.size**2 * 3
    limit = max(1, min(most or MOST_TASK_ROWS, MOST_TASK_BYTES // row))
    return max(n for n in range(1, batch_per_worker + 1) if batch_per_worker % n == 0 and n <= limit)


def _read(batch: dict[str, np.ndarray], folder: str, order: Callable[[int], list[Segment]]) -> pa.Table:
    (epoch,), (segment,) = batch["epoch"], batch["segment"]
    return read_segment(folder, order(int(epoch))[segment])


def _decode(table: pa.Table, spec: ClipSpec, seed: int) -> dict[str, Any]:
    return cut_batch(table.to_pylist(), spec, seed)
