"""Ray Data: shards -> decoded samples, in one order however many workers take them.

The rows of every epoch are listed beforehand (``paramcrop.data.order``). One task reads a segment of them, still
encoded; CPU tasks on any node decode a slice of it each, into blocks of exactly ``block_rows``. Blocks are kept in
order, so ``streaming_split`` deals them out in turn, and a global batch holds the same videos for 1 worker or 8.

One execution spans all epochs: nothing starts up between two of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import Dataset, ExecutionOptions, ExecutionResources, TaskPoolStrategy

from paramcrop.data.clips import ClipSpec, cut_sample
from paramcrop.data.killable import Killable
from paramcrop.data.samples import Cut, TrainingSet, cut_batches, following_rows, read_segment
from ray_jobs.engine.plan import DECODE_CPUS
from ray_jobs.engine.ray_private import lighten, loop_callbacks

LIGHT_CPUS = 0.02  # of a read task, which waits for storage, and of a slicing one
DECODERS_PER_READER = 8  # some 200 videos a second, tens of MB
# A task decodes seconds of videos, for its start and end cost tenths of one, in blocks that it hands on one by one: the
# smaller, the sooner the next is there, but each costs Ray some 10 ms.
TASK_ROWS, MOST_TASK_BYTES = 64, 400 * 2**20
MOST_BLOCK_ROWS, MOST_BLOCK_BYTES = 32, 48 * 2**20


@dataclass(frozen=True)
class Decoding:
    """How decoding is divided into tasks.

    Attributes:
        block_rows: rows of a block, a divisor of the global batch.
        timeout: seconds that a video may take.
        readers: segments that are read at the same time.
        decoders: processes that decode the videos of a task.
    """

    block_rows: int
    timeout: float
    readers: int = 1
    decoders: int = 1


def training_samples(videos: TrainingSet, spec: ClipSpec, epochs: range, decoding: Decoding, skip: int = 0) -> Dataset:
    """Every sample of ``epochs``, in whole global batches, in blocks of exactly ``decoding.block_rows``.

    Columns are ``paramcrop.data.samples.cut_batch``'s. The first ``skip`` samples of the first epoch are left out.
    """
    block_rows, decoders = decoding.block_rows, decoding.decoders
    # A task a segment. Only the segment's place travels; the task works out what is in it.
    places = [
        {"epoch": epoch, "segment": i, "skip": max(0, skip - segment.position if epoch == epochs[0] else 0)}
        for epoch in epochs
        for i, segment in enumerate(videos.segments(epoch))
        if epoch > epochs[0] or segment.position + len(segment.take) > skip
    ]
    encoded = ray.data.from_items(places, override_num_blocks=len(places)).map_batches(
        partial(_read, videos=videos),
        batch_size=1,
        batch_format="numpy",
        num_cpus=LIGHT_CPUS,
        compute=TaskPoolStrategy(size=decoding.readers),
    )
    # A task takes whole blocks: one for a segment would decode all of it, others the segments after it, and what those
    # make would wait in memory for its turn. Strictly, so that every task's rows are whole blocks of block_rows.
    task_rows = task_blocks(block_rows, spec, decoders) * block_rows
    sliced = encoded.repartition(target_num_rows_per_block=task_rows, strict=True)
    lighten(sliced, LIGHT_CPUS, decoding.readers)  # whole CPUs are what decoding would lack
    samples = sliced.map_batches(
        partial(_decode, videos=videos, spec=spec, decoding=decoding),
        batch_size=task_rows,
        batch_format="pyarrow",
        num_cpus=DECODE_CPUS * decoders,
    )
    # Below the size of block_rows rows, so that these are a block as soon as they are decoded, and in one piece: Ray
    # Data hands on what is larger, and cuts only what is 1.5 times too large.
    samples.context.target_max_block_size = int(0.9 * block_rows * row_bytes(spec))
    samples.context.custom_execution_callback_classes = loop_callbacks()
    return samples


def execution_options(cpus: float) -> ExecutionOptions:
    """At most ``cpus`` for reading and decoding; blocks in order."""
    return ExecutionOptions(resource_limits=ExecutionResources.for_limits(cpu=cpus), preserve_order=True)


def reader_count(cpus: float) -> int:
    """How many read for as many decoders as ``cpus`` hold."""
    return max(1, round(cpus / DECODERS_PER_READER))


def rows_per_block(batch_per_worker: int, spec: ClipSpec, most: int | None = None, decoders: int = 1) -> int:
    """The largest divisor of a worker's batch whose decoded rows stay within one block."""
    limit = max(1, min(most or MOST_BLOCK_ROWS, decoders * MOST_BLOCK_BYTES // row_bytes(spec)))
    return max(n for n in range(1, batch_per_worker + 1) if batch_per_worker % n == 0 and n <= limit)


def task_blocks(block_rows: int, spec: ClipSpec, decoders: int = 1) -> int:
    """How many blocks a task decodes."""
    return max(1, decoders * min(TASK_ROWS, MOST_TASK_BYTES // row_bytes(spec)) // block_rows)


def row_bytes(spec: ClipSpec) -> int:
    """Of a decoded row, nearly all of it pixels."""
    return spec.clips * spec.frames * spec.size**2 * 3


def _read(batch: dict[str, np.ndarray], videos: TrainingSet) -> pa.Table:
    (epoch,), (segment,), (skip,) = batch["epoch"], batch["segment"], batch["skip"]
    return read_segment(videos.folder, videos.segments(int(epoch))[segment]).slice(int(skip))


def _decode(table: pa.Table, videos: TrainingSet, spec: ClipSpec, decoding: Decoding) -> Iterator[dict[str, Any]]:
    rows, following = table.to_pylist(), partial(following_rows, videos)
    cutters = _cutters(decoding.timeout, decoding.decoders)
    yield from cut_batches(rows, decoding.block_rows, spec, videos.seed, following, cutters)


@cache
def _cutters(timeout: float, count: int) -> list[Cut]:
    """Child processes for this one's whole life: they end with it."""
    return [Killable(cut_sample, timeout) for _ in range(count)]
