from __future__ import annotations

import numpy as np
import pytest

from paramcrop.data.manifest import Manifest, Shard
from paramcrop.data.order import Labelled, Segment, epoch_segments, place_of, steps_per_epoch
from paramcrop.errors import ConfigError

GROUPS = ((5, 7, 3), (6, 6, 6, 1), (9,))
MANIFEST = Manifest("id", (), tuple(Shard(f"s{i}", 0, "", groups) for i, groups in enumerate(GROUPS)))


def shown(segments: list[Segment]) -> list[tuple[str, int, int]]:
    """Every row as (file, row group, row in the group), in the order of the epoch."""
    sizes = {(f"s{i}", g): n for i, groups in enumerate(GROUPS) for g, n in enumerate(groups)}
    rows = []
    for segment in segments:
        flat = [(file, group, row) for file, group in segment.groups for row in range(sizes[file, group])]
        rows += [flat[i] for i in segment.take]
    return rows


@pytest.mark.parametrize("window", [1, 3, 100])
def test_an_epoch_is_a_permutation_of_all_videos(window: int) -> None:
    rows = shown(epoch_segments(MANIFEST, 0, 0, MANIFEST.videos, window))
    assert len(rows) == len(set(rows)) == MANIFEST.videos == 43


@pytest.mark.parametrize("rows", [1, 24, 40])
def test_an_epoch_has_exactly_the_requested_rows(rows: int) -> None:
    segments = epoch_segments(MANIFEST, 0, 3, rows, 2)
    assert sum(len(s.take) for s in segments) == rows
    assert [s.position for s in segments] == [sum(len(t.take) for t in segments[:i]) for i in range(len(segments))]
    assert len(set(shown(segments))) == rows


def test_the_order_depends_only_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[tuple[str, int, int]]:
        return shown(epoch_segments(MANIFEST, seed, epoch, 40, 2))

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_rows_of_a_window_are_mixed() -> None:
    rows = shown(epoch_segments(MANIFEST, 0, 0, 43, 8))
    assert [r[:2] for r in rows] != sorted((r[:2] for r in rows), key=[r[:2] for r in rows].index)


def test_the_rows_left_out_change_from_epoch_to_epoch() -> None:
    everything = {(f"s{i}", g, r) for i, groups in enumerate(GROUPS) for g, n in enumerate(groups) for r in range(n)}
    left_out = [frozenset(everything - set(shown(epoch_segments(MANIFEST, 0, e, 40, 8)))) for e in range(5)]
    assert all(len(rows) == 3 for rows in left_out)
    assert len(set(left_out)) > 1


def test_steps_per_epoch() -> None:
    assert (steps_per_epoch(43, 8), steps_per_epoch(43, 43)) == (5, 1)
    with pytest.raises(ConfigError, match="at most the number of videos, 43, but is 64"):
        steps_per_epoch(43, 64)


ROWS = {("s0", 1): (0, 6), ("s1", 0): (2,), ("s1", 1): (5,), ("s2", 0): (0, 1, 8)}  # the other groups have no labels
LABELLED = Labelled(batch=8, quota=3, rows=ROWS)


@pytest.mark.parametrize("window", [1, 2, 100])
def test_each_batch_has_its_quota_of_labelled_rows_and_the_others_are_a_pass_over_all_videos(window: int) -> None:
    steps = steps_per_epoch(MANIFEST.videos, 8, 3)
    assert steps == 8  # each step takes five new videos of 43
    segments = epoch_segments(MANIFEST, 0, 1, 8 * steps, window, LABELLED)
    assert [s.position for s in segments] == [sum(len(t.take) for t in segments[:i]) for i in range(len(segments))]
    rows, labelled = shown(segments), np.concatenate([s.shown for s in segments])
    assert labelled.reshape(steps, 8).sum(1).tolist() == [3] * steps
    assert labelled.reshape(steps, 2, 4).sum(2).min() == 1  # evenly spread, so both workers have some
    plain = [row for row, is_labelled in zip(rows, labelled, strict=True) if not is_labelled]
    assert len(plain) == len(set(plain)) == 40
    known = {(*place, row) for place, rows in ROWS.items() for row in rows}
    again = [row for row, is_labelled in zip(rows, labelled, strict=True) if is_labelled]
    assert set(again) <= known and len(set(again)) >= 5
    assert [place_of(MANIFEST, 0, 1, 64, position, window, LABELLED) for position in range(64)] == rows


def test_a_window_with_few_labels_reads_additional_row_groups() -> None:
    (first, *_) = epoch_segments(MANIFEST, 0, 1, 64, 1, Labelled(8, 3, {("s2", 0): (0, 1, 8)}))
    assert ("s2", 0) in first.groups and len(first.groups) <= 2


def test_labelled_rows_are_shown_equally_often() -> None:
    segments = epoch_segments(MANIFEST, 0, 0, 64, 100, LABELLED)
    labelled = [
        row for segment in segments for row, is_labelled in zip(segment.take, segment.shown, strict=True) if is_labelled
    ]
    counts = [labelled.count(row) for row in set(labelled)]
    assert len(counts) == 7 and max(counts) - min(counts) <= 1
