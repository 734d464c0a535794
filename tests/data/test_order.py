from __future__ import annotations

import pytest

from paramcrop.data.order import Segment, epoch_segments, steps_per_epoch
from paramcrop.data.shards import Manifest, Shard
from paramcrop.errors import ConfigError

GROUPS = ((5, 7, 3), (6, 6, 6, 1), (9,))
MANIFEST = Manifest("id", (), tuple(Shard(f"s{i}", 0, "", groups) for i, groups in enumerate(GROUPS)))


def shown(segments: list[Segment]) -> list[tuple[str, int, int]]:
    """Every row as (file, row group, row in it), in the order shown."""
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
def test_an_epoch_is_cut_to_exactly_the_rows_asked_for(rows: int) -> None:
    segments = epoch_segments(MANIFEST, 0, 3, rows, 2)
    assert sum(len(s.take) for s in segments) == rows
    assert [s.position for s in segments] == [sum(len(t.take) for t in segments[:i]) for i in range(len(segments))]
    assert len(set(shown(segments))) == rows


def test_pure_in_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[tuple[str, int, int]]:
        return shown(epoch_segments(MANIFEST, seed, epoch, 40, 2))

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_rows_of_a_window_are_mixed() -> None:
    rows = shown(epoch_segments(MANIFEST, 0, 0, 43, 8))
    assert [r[:2] for r in rows] != sorted((r[:2] for r in rows), key=[r[:2] for r in rows].index)


def test_what_is_left_out_changes_from_epoch_to_epoch() -> None:
    everything = {(f"s{i}", g, r) for i, groups in enumerate(GROUPS) for g, n in enumerate(groups) for r in range(n)}
    left_out = [frozenset(everything - set(shown(epoch_segments(MANIFEST, 0, e, 40, 8)))) for e in range(5)]
    assert all(len(rows) == 3 for rows in left_out)
    assert len(set(left_out)) > 1


def test_steps_per_epoch() -> None:
    assert steps_per_epoch(43, 8) == 5
    with pytest.raises(ConfigError, match="at most the number of videos, 43, but is 64"):
        steps_per_epoch(43, 64)
