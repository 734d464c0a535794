"""Rows -> the columns of a batch. A row that cannot be decoded gets a substitute, so no row is ever missing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa

from paramcrop.data.clips import ClipSpec, Sample, black, cut_sample, draw_augmentation, generator
from paramcrop.data.manifest import Manifest
from paramcrop.data.order import Labelled, Segment, epoch_segments, place_of, steps_per_epoch
from paramcrop.data.shards import read_row_group
from paramcrop.errors import VideoError
from paramcrop.storage.files import open_folder

Row = Mapping[str, Any]
Cut = Callable[[Row, ClipSpec, int, int, int], Sample]  # row, spec, seed, epoch, attempt
Following = Callable[[int, int], Iterable[Row]]  # epoch, position -> candidates for a substitute, in order


def cut_batch(
    rows: Sequence[Row],
    spec: ClipSpec,
    seed: int,
    following: Following = lambda epoch, position: (),
    cut: Cut = cut_sample,
) -> dict[str, Any]:
    """Cut rows (each with ``epoch`` and ``position``) -> columns with one entry per row, in the same order.

    A row that cannot be decoded is replaced by the first row of ``following`` that can, with new random numbers, or by
    a black clip if there is none. ``error`` holds the reason (empty for a good row), ``substitute`` the id of the video
    shown instead (empty for a good row or a black clip), and ``label`` the label of the video shown (-1: unknown). The
    training loop decides how many failures are too many.

    Args:
        cut: ``cut_sample``, or the same with a time limit. Its arrays are copied before it is called again.
    """
    slots = _Slots(rows, spec, seed, following)
    for i in range(len(rows)):
        slots.fill(i, cut)
    return slots.columns()


def cut_batches(
    rows: Sequence[Row], size: int, spec: ClipSpec, seed: int, following: Following, cuts: Sequence[Cut]
) -> Generator[dict[str, Any], None, None]:
    """``cut_batch`` of every ``size`` rows, with each of ``cuts`` in its own thread.

    The next batch is cut while the caller uses the current one.
    """
    free: SimpleQueue[Cut] = SimpleQueue()
    for cut in cuts:
        free.put(cut)

    def fill(slots: _Slots, i: int) -> None:
        cut = free.get()
        try:
            slots.fill(i, cut)
        finally:
            free.put(cut)

    pool = ThreadPoolExecutor(len(cuts))
    begun: deque[tuple[_Slots, list[Future[None]]]] = deque()
    try:
        for first in range(0, len(rows), size):
            slots = _Slots(rows[first : first + size], spec, seed, following)
            begun.append((slots, [pool.submit(fill, slots, i) for i in range(len(slots.rows))]))
            if len(begun) > 1:
                yield _filled(*begun.popleft())
        while begun:
            yield _filled(*begun.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


class _Slots:
    """A batch that is being filled; each slot is filled by one thread."""

    def __init__(self, rows: Sequence[Row], spec: ClipSpec, seed: int, following: Following) -> None:
        self.rows, self._drawing, self._following = rows, (spec, seed), following
        self._arrays: dict[str, np.ndarray] = {}
        self._lock = Lock()
        self._errors, self._substitutes = [""] * len(rows), [""] * len(rows)
        self._labels = [row["label"] for row in rows]

    def fill(self, i: int, cut: Cut) -> None:
        row = self.rows[i]
        try:
            sample = cut(row, *self._drawing, row["epoch"], 0)
        except VideoError as failure:
            self._errors[i] = str(failure)
            others = self._following(row["epoch"], row["position"])
            sample, self._substitutes[i], self._labels[i] = substitute(row, *self._drawing, others, cut)
        with self._lock:  # the first sample determines the shapes and types of the columns
            if not self._arrays:
                self._arrays = {name: np.empty((len(self.rows), *v.shape), v.dtype) for name, v in sample.items()}
        for name, value in sample.items():
            self._arrays[name][i] = value

    def columns(self) -> dict[str, Any]:
        texts = {"id": [row["id"] for row in self.rows], "error": self._errors, "substitute": self._substitutes}
        numbers = {name: [row[name] for row in self.rows] for name in ("epoch", "position")} | {"label": self._labels}
        objects = {name: np.array(values, dtype=object) for name, values in texts.items()}
        return self._arrays | objects | {name: np.array(values, dtype=np.int64) for name, values in numbers.items()}


def _filled(slots: _Slots, work: list[Future[None]]) -> dict[str, Any]:
    for part in work:
        part.result()
    return slots.columns()


def substitute(row: Row, spec: ClipSpec, seed: int, others: Iterable[Row], cut: Cut) -> tuple[Sample, str, int]:
    """A sample in place of a row that cannot be decoded -> the sample, and the id and label (-1: none) of its video.

    Its random numbers depend only on the position in the epoch, so every worker makes the same substitute.
    """
    for other in others:
        try:
            return cut(other, spec, seed, row["epoch"], 1 + row["position"]), other["id"], other.get("label", -1)
        except VideoError:
            continue
    whole = np.tile(np.array([0, 1], np.float32), (2, 3, 1))
    drawn = draw_augmentation(generator(seed, row["epoch"], row["id"]), spec)
    return black(spec) | {"cube": whole, **drawn}, "", -1


SUBSTITUTES = 4  # candidates to replace a row; each is read from storage again


def read_segment(folder: str, segment: Segment) -> pa.Table:
    """The rows of a segment in order: ``id``, ``video``, ``label``, ``epoch`` and ``position`` (in the epoch)."""
    fs, root = open_folder(folder)
    table = pa.concat_tables([read_row_group(fs, f"{root}/{file}", group) for file, group in segment.groups])
    table = table.select(["id", "video", "label"]).take(pa.array(segment.take))
    if segment.shown:  # if empty, all labels are shown
        label = np.where(segment.shown, table["label"].to_numpy(), -1).astype(np.int32)
        table = table.set_column(table.schema.get_field_index("label"), "label", pa.array(label))
    table = table.append_column("epoch", pa.array(np.full(len(table), segment.epoch)))
    return table.append_column("position", pa.array(segment.position + np.arange(len(table))))


@dataclass(frozen=True)
class TrainingSet:
    """The videos of a training run and their order.

    Attributes:
        folder: folder of the shards.
        manifest: manifest of the shards.
        seed: seed of the order and of all random numbers of the samples.
        global_batch: videos per step over all workers.
        window: number of row groups whose rows are shuffled together.
        labelled: the rows that show their labels; None: all do.
    """

    folder: str
    manifest: Manifest
    seed: int
    global_batch: int
    window: int = 8
    labelled: Labelled | None = None

    @property
    def rows(self) -> int:
        """Number of rows in an epoch, which has complete global batches only."""
        quota = self.labelled.quota if self.labelled else 0
        return steps_per_epoch(self.manifest.videos, self.global_batch, quota) * self.global_batch

    def segments(self, epoch: int) -> list[Segment]:
        """See ``epoch_segments``."""
        return epoch_segments(self.manifest, self.seed, epoch, self.rows, self.window, self.labelled)

    def place_of(self, epoch: int, position: int) -> tuple[str, int, int]:
        """See ``order.place_of``."""
        return place_of(self.manifest, self.seed, epoch, self.rows, position, self.window, self.labelled)


def following_rows(videos: TrainingSet, epoch: int, position: int) -> Iterator[dict[str, Any]]:
    """The next rows after a row, at most ``SUBSTITUTES``, without labels; each is read when it is requested.

    They wrap around the end of the row's global batch, so they do not depend on how it is divided into tasks and
    workers.
    """
    fs, root = open_folder(videos.folder)
    first = position // videos.global_batch * videos.global_batch
    for i in range(1, min(SUBSTITUTES, videos.global_batch - 1) + 1):
        next_position = first + (position - first + i) % videos.global_batch
        file, group, row = videos.place_of(epoch, next_position)
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
    """The global batches of an epoch (columns of ``cut_batch``), decoded in this process; the same samples as Ray's."""
    rows: list[dict[str, Any]] = []
    videos = TrainingSet(folder, manifest, seed, global_batch, window, labelled)
    following = partial(following_rows, videos)
    for segment in videos.segments(epoch):
        rows += read_segment(folder, segment).to_pylist()
        while len(rows) >= global_batch:
            yield cut_batch(rows[:global_batch], spec, seed, following)
            del rows[:global_batch]
