"""Which videos an epoch shows, and in what order: a pure function of (manifest, seed, epoch)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paramcrop.data.shards import Manifest
from paramcrop.errors import ConfigError


@dataclass(frozen=True)
class Segment:
    """A run of an epoch's positions that is read at once.

    Attributes:
        epoch, position: of its first row.
        groups: (file, row group) to read and concatenate.
        take: rows of the concatenation, in the order shown.
    """

    epoch: int
    position: int
    groups: tuple[tuple[str, int], ...]
    take: tuple[int, ...]


def steps_per_epoch(videos: int, global_batch: int) -> int:
    """Whole global batches in an epoch.

    Raises:
        ConfigError: there are fewer videos than one batch needs.
    """
    if videos < global_batch:
        raise ConfigError(f"train.global_batch must be at most the number of videos, {videos}, but is {global_batch}")
    return videos // global_batch


def epoch_segments(manifest: Manifest, seed: int, epoch: int, rows: int, window: int = 8) -> list[Segment]:
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
        take = rng.permutation(sum(n for _, _, n in chosen))[: rows - position]
        if len(take):
            names = tuple((file, group) for file, group, _ in chosen)
            segments.append(Segment(epoch, position, names, tuple(take.tolist())))
        position += len(take)
    return segments


def place_of(
    manifest: Manifest, seed: int, epoch: int, rows: int, position: int, window: int = 8
) -> tuple[str, int, int]:
    """Where the row shown at ``position`` of an epoch lies: (file, row group, row in it)."""
    sizes = {(shard.file, g): n for shard in manifest.shards for g, n in enumerate(shard.row_groups)}
    segments = epoch_segments(manifest, seed, epoch, rows, window)
    segment = [s for s in segments if s.position <= position][-1]
    row = segment.take[position - segment.position]
    for file, group in segment.groups:
        if row < sizes[file, group]:
            return file, group, row
        row -= sizes[file, group]
    raise AssertionError(f"position {position} must lie in its segment, but that has {len(segment.take)} rows")
