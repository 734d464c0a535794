"""The videos of an evaluation: labelled splits, their rows in order, and training batches of any subset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from paramcrop.data.batch import Batch, to_batch
from paramcrop.data.clips import ClipSpec, cut_sample
from paramcrop.data.labels import ranked_by_class, read_labels
from paramcrop.data.manifest import Manifest, Shard, read_manifest
from paramcrop.data.order import epoch_segments
from paramcrop.data.samples import cut_batch, read_segment
from paramcrop.data.shards import read_row_group
from paramcrop.data.uniform import direct
from paramcrop.errors import DataError
from paramcrop.storage.files import open_folder

TASK_VIDEOS = 8  # videos per decode task
# Like the builtin ``map``: (function, items) -> results in order; a parallel one takes items a few ahead. The functions
# mapped here accept a ``guard``, through which they call the decoder. A map can pass a guard that runs the call in a
# child process, because decoders may hang or crash.
Map: TypeAlias = Callable[[Callable[..., Any], Iterable[Any]], Iterator[Any]]


class LabelledSet(NamedTuple):
    """One split of a folder of shards.

    Attributes:
        folder: path or URI. manifest: that of this split only.
        labels: video id -> class index, in stored order. classes: class names.
        rejected: {"id", "reason"} of the split's videos that preparing the dataset left out.
    """

    folder: str
    manifest: Manifest
    labels: dict[str, int]
    classes: tuple[str, ...]
    rejected: list[dict[str, str]]

    @property
    def all(self) -> int:
        """The number of the split's videos, including rejected ones."""
        return len(self.labels) + len(self.rejected)


def open_split(folder: str, split: str) -> LabelledSet:
    """Read one split's manifest and labels.

    Raises:
        DataError: there is no such folder or split, or a video of it has no label.
    """
    manifest = read_manifest(folder).select(split)
    labels = read_labels(folder, manifest)
    unlabelled = [video for video, label in labels.items() if label < 0]
    if unlabelled:
        count = f"{len(unlabelled)} of {len(labels)} have none, such as {unlabelled[0]}"
        raise DataError(f"{folder}: every video of split {split} must have a class, but {count}")
    rejected = [{"id": row["id"], "reason": row["reason"]} for row in manifest.rejected_of(split)]
    return LabelledSet(folder, manifest, labels, manifest.classes, rejected)


def split_pairs(manifest: Manifest, selected: Sequence[str] = ()) -> dict[str, tuple[str, str]]:
    """Split number ("" in a dataset with a single pair) -> names of the training and the test split.

    Args:
        selected: split numbers; empty: all.

    Raises:
        DataError: a selected split does not exist, or the dataset has no pair of splits.
    """
    pairs: dict[str, tuple[str, str]] = {}
    for name in manifest.splits:
        if name.startswith("train"):
            number = name.removeprefix("train")
            for other in ("test", "val"):
                if other + number in manifest.splits:
                    pairs.setdefault(number, (name, other + number))
    if not pairs:
        raise DataError(f"a dataset must have splits train and test (or val), but has {', '.join(manifest.splits)}")
    missing = [number for number in selected if number not in pairs]
    if missing:
        numbers = ", ".join(number for number in pairs if number)
        allowed = f"among {numbers}" if numbers else "unset, because the dataset has a single split"
        raise DataError(f"--splits must be {allowed}, but includes {missing[0]!r}")
    return {number: pairs[number] for number in selected or sorted(pairs, key=lambda n: (len(n), n))}


def held_out(train: LabelledSet, share: float, videos: int, seed: int) -> tuple[LabelledSet, LabelledSet]:
    """Divide a training split in two, the second with ``share`` of each class, to choose settings without test videos.

    Args:
        videos: minimum size of both together. Complete shards are taken; their videos were shuffled when written.
    """
    shards, labels = list[Shard](), dict[str, int]()
    for part in by_shard(train):
        if len(labels) < videos:
            shards += part.manifest.shards
            labels |= read_labels(train.folder, part.manifest)
    rank = ranked_by_class(list(labels), list(labels.values()), seed)
    queries = {video for video, position in zip(labels, rank, strict=True) if position < share}
    part = train._replace(manifest=replace(train.manifest, shards=tuple(shards)), rejected=[])
    first, second = ({v: c for v, c in labels.items() if (v in queries) is held} for held in (False, True))
    return part._replace(labels=first), part._replace(labels=second)


def by_shard(videos: LabelledSet) -> Iterator[LabelledSet]:
    """The same set, one shard at a time; ``labels`` remain those of the full set."""
    for shard in videos.manifest.shards:
        yield videos._replace(manifest=replace(videos.manifest, shards=(shard,)))


def rows(videos: LabelledSet) -> Iterator[dict[str, Any]]:
    """The ``id``, ``video`` and ``label`` of each video, in stored order."""
    fs, root = open_folder(videos.folder)
    for shard in videos.manifest.shards:
        for group in range(len(shard.row_groups)):
            yield from read_row_group(fs, f"{root}/{shard.file}", group).select(["id", "video", "label"]).to_pylist()


def training_batches(
    videos: LabelledSet, chosen: set[str], spec: ClipSpec, batch: int, seed: int, mapped: Map, epoch: int
) -> Iterator[Batch]:
    """One epoch of the ``chosen`` videos in full batches; (seed, epoch) determines the order and the clips.

    The next readable video of the same task replaces a video that cannot be decoded, as in pretraining.
    """
    tasks = _tasks(videos, chosen, batch, seed, epoch)
    decoded = mapped(partial(_cut, spec=spec, seed=seed), tasks)
    while parts := list(islice(decoded, len(range(0, batch, TASK_VIDEOS)))):
        yield to_batch({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _tasks(videos: LabelledSet, chosen: set[str], batch: int, seed: int, epoch: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of each decode task; no task has rows of two batches."""
    waiting: list[dict[str, Any]] = []
    position = 0
    for segment in epoch_segments(videos.manifest, seed, epoch, videos.manifest.videos):
        for row in read_segment(videos.folder, segment).to_pylist():
            if row["id"] in chosen:
                waiting.append(row | {"position": position})
                position += 1
        while len(waiting) >= batch:
            for first in range(0, batch, TASK_VIDEOS):
                yield waiting[first : min(first + TASK_VIDEOS, batch)]
            del waiting[:batch]


def _cut(rows: list[dict[str, Any]], spec: ClipSpec, seed: int, guard: Callable[..., Any] = direct) -> dict[str, Any]:
    first = rows[0]["position"]

    def following(epoch: int, position: int) -> Iterable[dict[str, Any]]:
        return (rows[(position - first + i) % len(rows)] for i in range(1, len(rows)))

    return cut_batch(rows, spec, seed, following, partial(guard, cut_sample))
