"""The videos of an epoch and their order: a pure function of (manifest, seed, epoch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TypeAlias

import numpy as np

from paramcrop.data.manifest import Manifest
from paramcrop.errors import ConfigError

Place: TypeAlias = tuple[str, int]  # file, row group
Group: TypeAlias = tuple[str, int, int]  # file, row group, number of rows


@dataclass(frozen=True)
class Segment:
    """Consecutive positions of an epoch that are read together.

    Attributes:
        epoch, position: of the first row.
        groups: (file, row group) to read and concatenate.
        take: rows of the concatenation, in the order of the epoch.
        shown: whether each row keeps its label; empty: all keep it.
    """

    epoch: int
    position: int
    groups: tuple[Place, ...]
    take: tuple[int, ...]
    shown: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Labelled:
    """A fixed number of labelled rows in each global batch; the other rows are one pass over all videos without labels.

    Attributes:
        batch: rows in a global batch.
        quota: labelled rows in a global batch.
        rows: (file, row group) -> rows whose labels may be shown.
    """

    batch: int
    quota: int
    rows: Mapping[Place, tuple[int, ...]]

    def slots(self, positions: np.ndarray) -> np.ndarray:
        """Which positions of an epoch hold labelled rows: bool, of the same shape.

        They are spread evenly over a batch, so that every rank gets its share.
        """
        slot = positions % self.batch
        spread: np.ndarray = (slot + 1) * self.quota // self.batch > slot * self.quota // self.batch
        return spread


def steps_per_epoch(videos: int, global_batch: int, labelled: int = 0) -> int:
    """Complete global batches in an epoch, of which ``labelled`` rows each are not part of the pass (see ``Labelled``).

    Raises:
        ConfigError: there are fewer videos than a batch needs.
    """
    counted = global_batch - labelled
    if videos < counted:
        raise ConfigError(f"train.global_batch must be at most the number of videos, {videos}, but is {counted}")
    return videos // counted


def epoch_segments(
    manifest: Manifest, seed: int, epoch: int, rows: int, window: int = 8, labelled: Labelled | None = None
) -> list[Segment]:
    """The segments of an epoch of exactly ``rows`` positions.

    Row groups come in random order, and rows are shuffled within each ``window`` of row groups. The few rows beyond
    ``rows`` are left out; they differ from epoch to epoch.
    """
    # A full shuffle would read a row group for every row. Reading ``window`` groups at once and shuffling those keeps
    # reads sequential, and the random order of groups changes from epoch to epoch which videos meet in a batch.
    rng = np.random.default_rng([seed, epoch])
    groups = [(s.file, g, n) for s in manifest.shards for g, n in enumerate(s.row_groups)]
    order = rng.permutation(len(groups))
    segments: list[Segment] = []
    position = 0
    for first in range(0, len(order), window):
        chosen = [groups[i] for i in order[first : first + window]]
        take = rng.permutation(sum(n for _, _, n in chosen))
        if labelled is None:
            names, shown = [(file, group) for file, group, _ in chosen], np.array([], bool)
            take = take[: rows - position]
        else:
            names, take, shown = _with_labelled(labelled, rng, groups, chosen, take, np.arange(position, rows))
        if len(take):
            segments.append(Segment(epoch, position, tuple(names), tuple(take.tolist()), tuple(shown.tolist())))
        position += len(take)
    return segments


def _with_labelled(
    labelled: Labelled,
    rng: np.random.Generator,
    groups: list[Group],
    chosen: list[Group],
    take: np.ndarray,
    left: np.ndarray,
) -> tuple[list[Place], np.ndarray, np.ndarray]:
    """Insert labelled rows between the rows of ``take`` -> places, rows, whether each row is labelled.

    The labelled rows come from the row groups ``chosen``. If these have fewer than a batch needs, other row groups are
    read as well. When all labelled rows have been used, they repeat in another order.

    Args:
        left: positions of the epoch that are not covered yet.
    """
    labels = labelled.slots(left)
    plain = np.cumsum(~labels)
    # Positions may be left for later segments. This one then ends with the last row of ``take``.
    if len(take) < (plain[-1] if len(plain) else 0):
        labels = labels[: int(np.searchsorted(plain, len(take))) + 1]
    read = list(chosen)
    others = (groups[i] for i in rng.permutation(len(groups)))
    while len(pool := _pool(labelled, read)) < labelled.quota and (other := next(others, None)):
        if other not in read and labelled.rows.get(other[:2]):
            read.append(other)
    need = int(labels.sum())
    again = [rng.permutation(pool) for _ in range(ceil(need / len(pool)))]
    rows = np.empty(len(labels), np.int64)
    rows[~labels] = take[: len(labels) - need]
    rows[labels] = np.concatenate([*again, np.array([], np.int64)])[:need]
    return [(file, group) for file, group, _ in read], rows, labels


def _pool(labelled: Labelled, read: list[Group]) -> np.ndarray:
    """The labelled rows of the concatenated row groups ``read``."""
    starts = np.cumsum([0, *(n for _, _, n in read)])
    rows = [
        start + row
        for start, (file, group, _) in zip(starts, read, strict=False)
        for row in labelled.rows.get((file, group), ())
    ]
    return np.array(rows, np.int64)


def place_of(
    manifest: Manifest,
    seed: int,
    epoch: int,
    rows: int,
    position: int,
    window: int = 8,
    labelled: Labelled | None = None,
) -> tuple[str, int, int]:
    """The stored place of the row at ``position`` of an epoch: (file, row group, row in the group)."""
    sizes = {(shard.file, g): n for shard in manifest.shards for g, n in enumerate(shard.row_groups)}
    segments = epoch_segments(manifest, seed, epoch, rows, window, labelled)
    segment = [s for s in segments if s.position <= position][-1]
    row = segment.take[position - segment.position]
    for file, group in segment.groups:
        if row < sizes[file, group]:
            return file, group, row
        row -= sizes[file, group]
    raise AssertionError(f"row {row} is beyond the row groups of the segment at position {segment.position}")
