"""Which videos an epoch shows, and in what order: a pure function of (manifest, seed, epoch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TypeAlias

import numpy as np

from paramcrop.data.manifest import Manifest
from paramcrop.errors import ConfigError

Place: TypeAlias = tuple[str, int]  # file, row group
Group: TypeAlias = tuple[str, int, int]  # file, row group, rows in it


@dataclass(frozen=True)
class Segment:
    """A run of an epoch's positions that is read at once.

    Attributes:
        epoch, position: of its first row.
        groups: (file, row group) to read and concatenate.
        take: rows of the concatenation, in the order shown.
        shown: whether each of them shows its label; empty: all do.
    """

    epoch: int
    position: int
    groups: tuple[Place, ...]
    take: tuple[int, ...]
    shown: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Labelled:
    """A fixed number of labelled rows in each global batch, besides the epoch's pass over all videos without labels.

    Attributes:
        batch: rows of a global batch; quota: of them labelled.
        rows: (file, row group) -> the rows in it whose labels may be shown.
    """

    batch: int
    quota: int
    rows: Mapping[Place, tuple[int, ...]]

    def slots(self, positions: np.ndarray) -> np.ndarray:
        """Which positions of an epoch are for labelled rows, spread evenly over a batch: bool, of the same shape."""
        slot = positions % self.batch
        spread: np.ndarray = (slot + 1) * self.quota // self.batch > slot * self.quota // self.batch
        return spread


def steps_per_epoch(videos: int, global_batch: int, labelled: int = 0) -> int:
    """Whole global batches in an epoch; of each batch, ``labelled`` rows are not counted (see ``Labelled``).

    Raises:
        ConfigError: there are fewer videos than one batch needs.
    """
    counted = global_batch - labelled
    if videos < counted:
        raise ConfigError(f"train.global_batch must be at most the number of videos, {videos}, but is {counted}")
    return videos // counted


def epoch_segments(
    manifest: Manifest, seed: int, epoch: int, rows: int, window: int = 8, labelled: Labelled | None = None
) -> list[Segment]:
    """Cover exactly ``rows`` positions: row groups in random order, rows shuffled within each ``window`` of them.

    The few rows beyond ``rows`` are left out, other ones each epoch.
    """
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
    """Put labelled rows, of the same row groups, between those of ``take`` -> places, rows, whether each is labelled.

    Where the groups ``chosen`` have fewer labelled rows than one batch needs, those of others are read besides. Rows
    are shown again, in another order, when all have been.

    Args:
        left: positions of the epoch that are not covered yet.
    """
    labels = labelled.slots(left)
    plain = np.cumsum(~labels)
    if len(take) < (plain[-1] if len(plain) else 0):  # not the last segment: it ends with its last row without a label
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
    """The labelled rows of row groups that are read one after the other."""
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
    """Where the row shown at ``position`` of an epoch lies: (file, row group, row in it)."""
    sizes = {(shard.file, g): n for shard in manifest.shards for g, n in enumerate(shard.row_groups)}
    segments = epoch_segments(manifest, seed, epoch, rows, window, labelled)
    segment = [s for s in segments if s.position <= position][-1]
    row = segment.take[position - segment.position]
    for file, group in segment.groups:
        if row < sizes[file, group]:
            return file, group, row
        row -= sizes[file, group]
    raise AssertionError(f"position {position} must lie in its segment, but that has {len(segment.take)} rows")
