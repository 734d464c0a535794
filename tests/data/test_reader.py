from __future__ import annotations

import numpy as np

from paramcrop.data.clips import ClipSpec
from paramcrop.data.order import epoch_segments
from paramcrop.data.reader import epoch_batches, read_segment
from paramcrop.data.shards import Manifest, read_videos

SPEC = ClipSpec(frames=8, size=32, random_cube=False)


def test_a_segment_is_read_in_its_order(shards: tuple[str, Manifest]) -> None:
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


def test_an_epoch_comes_as_whole_global_batches(shards: tuple[str, Manifest]) -> None:
    folder, manifest = shards
    batches = list(epoch_batches(folder, manifest, SPEC, 0, 1, global_batch=10, window=1))
    assert [len(b["id"]) for b in batches] == [10] * 4
    np.testing.assert_array_equal(np.concatenate([b["position"] for b in batches]), np.arange(40))
