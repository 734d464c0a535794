"""Segments of an epoch -> encoded rows -> samples, in this process: what Ray Data does with many."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from paramcrop.data.clips import ClipSpec
from paramcrop.data.order import Labelled, Segment, epoch_segments, place_of, steps_per_epoch
from paramcrop.data.samples import cut_batch
from paramcrop.data.shards import Manifest, open_folder, read_row_group

STAND_INS = 4  # rows tried for one that cannot be decoded; each is read from storage again


def read_segment(folder: str, segment: Segment) -> pa.Table:
    """A segment's rows in the order shown: ``id``, ``video``, ``label``, ``epoch`` and ``position`` (in the epoch)."""
    fs, root = open_folder(folder)
    table = pa.concat_tables([read_row_group(fs, f"{root}/{file}", group) for file, group in segment.groups])
    table = table.select(["id", "video", "label"]).take(pa.array(segment.take))
    if segment.shown:  # else all labels are
        label = np.where(segment.shown, table["label"].to_numpy(), -1).astype(np.int32)
        table = table.set_column(table.schema.get_field_index("label"), "label", pa.array(label))
    table = table.append_column("epoch", pa.array(np.full(len(table), segment.epoch)))
    return table.append_column("position", pa.array(segment.position + np.arange(len(table))))


def following_rows(
    folder: str,
    manifest: Manifest,
    seed: int,
    rows: int,
    global_batch: int,
    window: int,
    labelled: Labelled | None,
    epoch: int,
    position: int,
) -> Iterator[dict[str, Any]]:
    """At most ``STAND_INS`` next rows of a row's global batch, around its end; read when asked for, without labels.

    They do not depend on how a batch is divided into tasks and workers.
    """
    fs, root = open_folder(folder)
    first = position // global_batch * global_batch
    for i in range(1, min(STAND_INS, global_batch - 1) + 1):
        next_position = first + (position - first + i) % global_batch
        file, group, row = place_of(manifest, seed, epoch, rows, next_position, window, labelled)
        yield read_row_group(fs, f"{root}/{file}", group).select(["id", "video"]).slice(row, 1).to_pylist()[0]


def epoch_batches(
    folder: str,
    manifest: Manifest,
    spec: ClipSpec,
    seed: int,
    epoch: int,
    global_batch: int,
    window: int = 8,
    labelled: Labelled | None = None,
) -> Iterator[dict[str, Any]]:
    """One epoch's global batches (``cut_batch``'s columns), read and decoded here: the samples Ray Data gives."""
    rows: list[dict[str, Any]] = []
    total = steps_per_epoch(manifest.videos, global_batch, labelled.quota if labelled else 0) * global_batch
    following = partial(following_rows, folder, manifest, seed, total, global_batch, window, labelled)
    for segment in epoch_segments(manifest, seed, epoch, total, window, labelled):
        rows += read_segment(folder, segment).to_pylist()
        while len(rows) >= global_batch:
            yield cut_batch(rows[:global_batch], spec, seed, following)
            del rows[:global_batch]
