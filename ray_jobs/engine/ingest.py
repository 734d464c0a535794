"""Ray Data: shards -> decoded samples, in an order that does not depend on the number of workers.

The rows of every epoch are known in advance (``paramcrop.data.order``). One task reads a segment of encoded rows; CPU
tasks on any node decode one slice of it each, into blocks of exactly ``block_rows``. Blocks stay in order, and
``streaming_split`` deals them to the workers in turn, so a global batch has the same videos for 1 worker or 8.

One execution covers all epochs, so that nothing has to start up between two of them.
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
from ray_jobs.engine.plans.plan import DECODE_CPUS
from ray_jobs.engine.ray_private import lighten, loop_callbacks

LIGHT_CPUS = 0.02  # CPUs of a read task, which waits for storage, and of a slicing task
DECODERS_PER_READER = 8  # they decode about 200 videos, tens of MB, per second
# Starting and ending a task costs tenths of a second, so each decodes for seconds. It yields its videos in blocks:
# smaller ones arrive sooner, but Ray needs about 10 ms for each.
TASK_ROWS, MOST_TASK_BYTES = 64, 400 * 2**20
MOST_BLOCK_ROWS, MOST_BLOCK_BYTES = 32, 48 * 2**20


@dataclass(frozen=True)
class Decoding:
    """How decoding is divided into tasks.

    Attributes:
        block_rows: rows per block, a divisor of a worker's batch.
        timeout: seconds that a video may take.
        readers: segments that are read at the same time.
        decoders: processes that decode the videos of one task.
    """

    block_rows: int
    timeout: float
    readers: int = 1
    decoders: int = 1


def training_samples(videos: TrainingSet, spec: ClipSpec, epochs: range, decoding: Decoding, skip: int = 0) -> Dataset:
    """Every sample of ``epochs``, in full global batches, in blocks of exactly ``decoding.block_rows``.

    The columns are those of ``paramcrop.data.samples.cut_batch``. The first ``skip`` samples of the first epoch are
    left out.
    """
    block_rows, decoders = decoding.block_rows, decoding.decoders
    # One task per segment. It receives the segment's index only and computes the rows itself.
    segments = [
        {"epoch": epoch, "segment": i, "skip": max(0, skip - segment.position if epoch == epochs[0] else 0)}
        for epoch in epochs
        for i, segment in enumerate(videos.segments(epoch))
        if epoch > epochs[0] or segment.position + len(segment.take) > skip
    ]
    encoded = ray.data.from_items(segments, override_num_blocks=len(segments)).map_batches(
        partial(_read, videos=videos),
        batch_size=1,
        batch_format="numpy",
        num_cpus=LIGHT_CPUS,
        compute=TaskPoolStrategy(size=decoding.readers),
    )
    # Slice the segments for decoding. With one task per segment, the tasks of later segments would finish while the
    # first one still decodes, and their output would have to wait in memory. strict: every slice has exactly task_rows
    # rows, a multiple of block_rows.
    task_rows = task_blocks(block_rows, spec, decoders) * block_rows
    sliced = encoded.repartition(target_num_rows_per_block=task_rows, strict=True)
    lighten(sliced, LIGHT_CPUS, decoding.readers)  # by default it reserves full CPUs, which decoding would lack
    samples = sliced.map_batches(
        partial(_decode, videos=videos, spec=spec, decoding=decoding),
        batch_size=task_rows,
        batch_format="pyarrow",
        num_cpus=DECODE_CPUS * decoders,
    )
    # Slightly smaller than block_rows rows. Ray Data emits a block once it exceeds this size, so the rows leave as soon
    # as they are decoded; it splits blocks only above 1.5 times this size, so they leave in one piece.
    samples.context.target_max_block_size = int(0.9 * block_rows * row_bytes(spec))
    samples.context.custom_execution_callback_classes = loop_callbacks()
    return samples


def execution_options(cpus: float) -> ExecutionOptions:
    """Options that limit reading and decoding to ``cpus`` and keep blocks in order."""
    return ExecutionOptions(resource_limits=ExecutionResources.for_limits(cpu=cpus), preserve_order=True)


def reader_count(cpus: float) -> int:
    """The number of readers that supply the decoders on ``cpus``."""
    return max(1, round(cpus / DECODERS_PER_READER))


def rows_per_block(batch_per_worker: int, spec: ClipSpec, most: int | None = None, decoders: int = 1) -> int:
    """The largest divisor of a worker's batch whose decoded rows fit in one block."""
    limit = max(1, min(most or MOST_BLOCK_ROWS, decoders * MOST_BLOCK_BYTES // row_bytes(spec)))
    return max(n for n in range(1, batch_per_worker + 1) if batch_per_worker % n == 0 and n <= limit)


def task_blocks(block_rows: int, spec: ClipSpec, decoders: int = 1) -> int:
    """The number of blocks that one task decodes."""
    return max(1, decoders * min(TASK_ROWS, MOST_TASK_BYTES // row_bytes(spec)) // block_rows)


def row_bytes(spec: ClipSpec) -> int:
    """The size of a decoded row, which is nearly all pixels."""
    picture = spec.planes**2 * 3 // 2 if spec.planes else spec.size**2 * 3
    return spec.clips * spec.frames * picture


def _read(batch: dict[str, np.ndarray], videos: TrainingSet) -> pa.Table:
    (epoch,), (segment,), (skip,) = batch["epoch"], batch["segment"], batch["skip"]
    return read_segment(videos.folder, videos.segments(int(epoch))[segment]).slice(int(skip))


def _decode(table: pa.Table, videos: TrainingSet, spec: ClipSpec, decoding: Decoding) -> Iterator[dict[str, Any]]:
    rows, following = table.to_pylist(), partial(following_rows, videos)
    cutters = _cutters(decoding.timeout, decoding.decoders)
    yield from cut_batches(rows, decoding.block_rows, spec, videos.seed, following, cutters)


@cache
def _cutters(timeout: float, count: int) -> list[Cut]:
    """Child processes, which end with this one."""
    return [Killable(cut_sample, timeout) for _ in range(count)]
