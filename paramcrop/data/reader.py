"""Segments of an epoch -> encoded rows -> samples, in this process: what Ray Data does with many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from paramcrop.data.clips import ClipSpec, cut_batch
from paramcrop.data.order import Segment, epoch_segments, steps_per_epoch
from paramcrop.data.shards import Manifest, open_folder, read_row_group


def read_segment(folder: str, segment: Segment) -> pa.Table:
    """A segment's rows in the order shown: ``id``, ``video``, ``label``, ``epoch`` and ``position`` (in the epoch)."""
    fs, root = open_folder(folder)
    table = pa.concat_tables([read_row_group(fs, f"{root}/{file}", group) for file, group in segment.groups])
    table = table.select(["id", "video", "label"]).take(pa.array(segment.take))
    table = table.append_column("epoch", pa.array(np.full(len(table), segment.epoch)))
    return table.append_column("position", pa.array(segment.position + np.arange(len(table))))


def epoch_batches(
    folder: str, manifest: Manifest, spec: ClipSpec, seed: int, epoch: int, global_batch: int, window: int = 8
) -> Iterator[dict[str, Any]]:
    """One epoch's global batches (``cut_batch``'s columns), read and decoded here: the samples Ray Data gives."""
    rows: list[dict[str, Any]] = []
    total = steps_per_epoch(manifest.videos, global_batch) * global_batch
    for segment in epoch_segments(manifest, seed, epoch, total, window):
        rows += read_segment(folder, segment).to_pylist()
        while len(rows) >= global_batch:
            yield cut_batch(rows[:global_batch], spec, seed)
            del rows[:global_batch]
