from __future__ import annotations

import numpy as np

from paramcrop.data.clips import ClipSpec
from paramcrop.data.labels import labelled_rows
from paramcrop.data.manifest import Manifest
from paramcrop.data.order import Labelled, epoch_segments
from paramcrop.data.samples import epoch_batches, read_segment
from paramcrop.data.shards import read_videos

SPEC = ClipSpec(frames=8, size=32, random_cube=False)


def test_a_segment_is_read_in_order(shards: tuple[str, Manifest]) -> None:
    folder, manifest = shards
    videos = {v.id: v.video for v in read_videos(folder)}
    ids: list[str] = []
    for segment in epoch_segments(manifest, 0, 2, 40, window=2):
        table = read_segment(folder, segment).to_pydict()
        assert table["epoch"] == [2] * len(segment.take)
        assert table["position"] == list(range(len(ids), len(ids) + len(segment.take)))
        assert all(videos[i] == v for i, v in zip(table["id"], table["video"], strict=True))
        ids += table["id"]
    assert len(set(ids)) == 40


def test_an_epoch_consists_of_complete_global_batches(shards: tuple[str, Manifest]) -> None:
    folder, manifest = shards
    batches = list(epoch_batches(folder, manifest, SPEC, 0, 1, global_batch=10, window=1))
    assert [len(b["id"]) for b in batches] == [10] * 4
    np.testing.assert_array_equal(np.concatenate([b["position"] for b in batches]), np.arange(40))


def test_only_labelled_rows_show_their_labels(shards: tuple[str, Manifest]) -> None:
    """A quarter of each class is two of six videos, rounded up."""
    folder, manifest = shards
    known = {v.id: v.label for v in read_videos(folder)}
    rows = labelled_rows(folder, manifest, 0.25, seed=0)
    assert sum(map(len, rows.values())) == 2 * 8
    batches = list(epoch_batches(folder, manifest, SPEC, 0, 1, 8, 1, Labelled(8, 2, rows)))
    assert len(batches) == 48 // 6
    with_label = [(i, label) for b in batches for i, label in zip(b["id"], b["label"], strict=True) if label >= 0]
    assert len(with_label) == 2 * len(batches) and all(known[i] == label for i, label in with_label)
    assert len({i for i, _ in with_label}) <= 16
    assert {i for b in batches for i in b["id"]} == set(known)


def test_a_smaller_share_of_labels_is_a_subset_of_a_larger_one(shards: tuple[str, Manifest]) -> None:
    def chosen(share: float, seed: int = 0) -> set[tuple[str, int, int]]:
        return {(*place, row) for place, rows in labelled_rows(*shards, share, seed).items() for row in rows}

    assert chosen(0.1) < chosen(0.5) < chosen(1.0) and len(chosen(1.0)) == 48
    assert chosen(0.5) != chosen(0.5, seed=1)
