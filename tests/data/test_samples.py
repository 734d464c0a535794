from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from paramcrop.data.clips import ClipSpec, Sample, cut_sample
from paramcrop.data.killable import Killable
from paramcrop.data.manifest import Manifest
from paramcrop.data.order import epoch_segments, place_of
from paramcrop.data.samples import (
    SUBSTITUTES,
    TrainingSet,
    cut_batch,
    cut_batches,
    epoch_batches,
    following_rows,
    read_segment,
)
from paramcrop.data.shards import read_videos, write_shards

SPEC = ClipSpec(frames=8, size=32)
BATCH, WINDOW = 12, 2


def rows(shards: tuple[str, Manifest], n: int) -> list[dict[str, Any]]:
    videos = list(read_videos(shards[0]))[:n]
    return [{"id": v.id, "video": v.video, "label": v.label, "epoch": 0, "position": i} for i, v in enumerate(videos)]


def test_a_row_that_fails_gets_a_substitute(shards: tuple[str, Manifest]) -> None:
    some = rows(shards, 4)
    some[1]["video"] = b"garbage"
    torn = [some[2] | {"video": b"torn"}, some[3]]
    columns = cut_batch(some, SPEC, 0, lambda epoch, position: torn)
    assert columns["id"].tolist() == [row["id"] for row in some]
    assert [bool(error) for error in columns["error"]] == [False, True, False, False]
    assert "PyAV cannot open" in columns["error"][1]
    assert columns["substitute"].tolist() == ["", some[3]["id"], "", ""]  # the first that can be decoded
    substitute = cut_sample(some[3], SPEC, 0, 0, attempt=2)  # with new random numbers
    np.testing.assert_array_equal(columns["video"][1], substitute["video"])
    assert not np.array_equal(columns["noise"][1], columns["noise"][3])


def test_a_row_without_a_substitute_is_a_black_clip_with_a_reason(shards: tuple[str, Manifest]) -> None:
    some = rows(shards, 2)
    good = cut_batch(some, SPEC, 0)
    bad = cut_batch([row | {"video": b"garbage"} for row in some], SPEC, 0)
    assert all("PyAV cannot open" in error for error in bad["error"])
    assert not bad["video"].any() and bad["label"].tolist() == [-1, -1]
    assert {n: (c.shape, c.dtype) for n, c in bad.items()} == {n: (c.shape, c.dtype) for n, c in good.items()}


def cut_or_hang(row: Any, spec: ClipSpec, seed: int, epoch: int, attempt: int) -> Sample:
    """``cut_sample``, with some videos that hang or crash it."""
    if row["video"] == b"hang":
        time.sleep(600)
    elif row["video"] == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    return cut_sample(row, spec, seed, epoch, attempt)


def test_a_video_that_hangs_or_crashes_keeps_its_slot(shards: tuple[str, Manifest]) -> None:
    some = rows(shards, 4)
    good = cut_batch(some, SPEC, 0)
    bad = [some[0], some[1] | {"video": b"hang"}, some[2] | {"video": b"crash"}, some[3]]
    start = time.monotonic()
    with Killable(cut_or_hang, 10.0) as cut:
        columns = cut_batch(bad, SPEC, 0, lambda epoch, position: bad[position + 1 :], cut)
    assert time.monotonic() - start < 300  # less than it hangs; a busy machine starts three interpreters slowly
    assert columns["error"].tolist() == [
        *("", "reading took longer than 10 s", "the decoder process was killed by SIGSEGV", "")
    ]
    assert columns["substitute"].tolist() == ["", some[3]["id"], some[3]["id"], ""]
    for i in (0, 3):
        np.testing.assert_array_equal(columns["video"][i], good["video"][i])
    assert columns["label"].tolist() == [some[i]["label"] for i in (0, 3, 3, 3)]  # of the videos shown


def test_batches_do_not_depend_on_the_number_of_threads(shards: tuple[str, Manifest]) -> None:
    some = rows(shards, 10)
    some[4] = some[4] | {"video": b"torn"}
    cutting: set[int] = set()

    def cut(number: int, *given: Any) -> Any:
        assert number not in cutting  # its arrays are only valid until the next call
        cutting.add(number)
        try:
            time.sleep(0.01 * number)
            return cut_sample(*given)
        finally:
            cutting.remove(number)

    def following(epoch: int, position: int) -> list[Any]:
        return some[position + 1 :]

    got = list(cut_batches(some, 4, SPEC, 0, following, [partial(cut, number) for number in range(3)]))
    assert [len(columns["id"]) for columns in got] == [4, 4, 2]
    for i, columns in enumerate(got):
        for name, column in cut_batch(some[4 * i : 4 * i + 4], SPEC, 0, following).items():
            np.testing.assert_array_equal(columns[name], column, err_msg=name)
    assert got[1]["substitute"][0] == some[5]["id"]


def test_the_next_batch_is_cut_in_the_background(shards: tuple[str, Manifest]) -> None:
    some, cut = rows(shards, 12), list[str]()

    def noted(row: Any, *given: Any) -> Any:
        sample = cut_sample(row, *given)
        cut.append(row["id"])
        return sample

    batches = cut_batches(some, 4, SPEC, 0, lambda epoch, position: (), [noted])
    next(batches)
    end = time.monotonic() + 30
    while len(cut) < 8 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.1)
    assert sorted(cut) == sorted(row["id"] for row in some[:8])  # and no more, which would take memory
    batches.close()


def test_a_programming_error_ends_the_batches(shards: tuple[str, Manifest]) -> None:
    def wrong(row: Any, *given: Any) -> Any:
        raise KeyError("size")

    with pytest.raises(KeyError, match="size"):
        list(cut_batches(rows(shards, 8), 4, SPEC, 0, lambda epoch, position: (), [wrong, wrong]))


def test_place_of_finds_every_row(shards: tuple[str, Manifest]) -> None:
    folder, manifest = shards
    segments = epoch_segments(manifest, 3, 1, 40, WINDOW)
    shown = [video for segment in segments for video in read_segment(folder, segment)["id"].to_pylist()]
    by_place: dict[tuple[str, int, int], str] = {}
    for shard in manifest.shards:
        ids = [v.id for v in read_videos(folder)]
        first = 0
        for group, n in enumerate(shard.row_groups):
            by_place |= {(shard.file, group, i): ids[first + i] for i in range(n)}
            first += n
    assert [by_place[place_of(manifest, 3, 1, 40, position, WINDOW)] for position in range(40)] == shown


def test_substitutes_are_the_next_rows_of_the_global_batch(shards: tuple[str, Manifest]) -> None:
    folder, manifest = shards
    shown = [batch["id"].tolist() for batch in epoch_batches(folder, manifest, SPEC, 0, 0, BATCH, WINDOW)]
    find = partial(following_rows, TrainingSet(folder, manifest, 0, BATCH, WINDOW), 0)
    assert [row["id"] for row in find(BATCH + 3)] == shown[1][4 : 4 + SUBSTITUTES]
    assert [row["id"] for row in find(2 * BATCH - 2)] == [shown[1][-1], *shown[1][: SUBSTITUTES - 1]]  # it wraps around


def test_a_substitute_does_not_depend_on_the_division_of_a_batch(shards: tuple[str, Manifest], tmp_path: Any) -> None:
    def with_two_torn() -> Iterator[Any]:
        for i, video in enumerate(read_videos(shards[0])):
            yield video if i not in (5, 30) else type(video)(**{**vars(video), "video": b"torn"})

    folder = str(tmp_path)
    manifest = write_shards(with_two_torn(), folder, row_group_rows=8)
    whole = list(epoch_batches(folder, manifest, SPEC, 0, 0, BATCH, WINDOW))
    failed = [(b["id"][i], b["substitute"][i]) for b in whole for i in range(BATCH) if b["error"][i]]
    assert len(failed) == 2 and all(substitute for _, substitute in failed)
    total = len(whole) * BATCH
    following = partial(following_rows, TrainingSet(folder, manifest, 0, BATCH, WINDOW))
    encoded = [r for s in epoch_segments(manifest, 0, 0, total, WINDOW) for r in read_segment(folder, s).to_pylist()]
    for size in (1, 4):
        for first in range(0, total, size):
            part = cut_batch(encoded[first : first + size], SPEC, 0, following)
            step, row = divmod(first, BATCH)
            for name, column in part.items():
                np.testing.assert_array_equal(column, whole[step][name][row : row + size], err_msg=name)
