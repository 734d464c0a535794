"""The videos of a split, in evaluation: their labels, their rows in order, training batches of any part of them."""

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

TASK_VIDEOS = 8  # videos that one call of the mapped function decodes
# Like the builtin ``map``: (function, items) -> results in order; one that works in parallel takes items a few ahead.
# The functions mapped here take a ``guard``, which calls another function with arguments: a map may give one that does
# so in a child process, for decoders that hang or crash.
Map: TypeAlias = Callable[[Callable[..., Any], Iterable[Any]], Iterator[Any]]


class LabelledSet(NamedTuple):
    """One split of a folder of shards.

    Attributes:
        folder: path or URI. manifest: of this split alone.
        labels: video id -> class number, in the order stored. classes: their names.
        rejected: {"id", "reason"} of the split's videos that were left out when it was prepared.
    """

    folder: str
    manifest: Manifest
    labels: dict[str, int]
    classes: tuple[str, ...]
    rejected: list[dict[str, str]]

    @property
    def all(self) -> int:
        """The split's videos, those that were left out included."""
        return len(self.labels) + len(self.rejected)


def open_split(folder: str, split: str) -> LabelledSet:
    """Raises:
    DataError: there is no such folder or split, or a video of it has no label.
    """
    manifest = read_manifest(folder).select(split)
    labels = read_labels(folder, manifest)
    unlabelled = [video for video, label in labels.items() if label < 0]
    if unlabelled:
        told = f"{len(unlabelled)} of {len(labels)} have none, such as {unlabelled[0]}"
        raise DataError(f"{folder}: every video of split {split} must have a class to be evaluated on, but {told}")
    rejected = [{"id": row["id"], "reason": row["reason"]} for row in manifest.rejected_of(split)]
    return LabelledSet(folder, manifest, labels, manifest.classes, rejected)


def split_pairs(manifest: Manifest, wanted: Sequence[str] = ()) -> dict[str, tuple[str, str]]:
    """Number (or "" where a set has one split alone) -> names of the training and the testing split.

    Args:
        wanted: numbers; none: all there are.

    Raises:
        DataError: one that is wanted is not there, or the set has no pair at all.
    """
    pairs: dict[str, tuple[str, str]] = {}
    for name in manifest.splits:
        if name.startswith("train"):
            number = name.removeprefix("train")
            for other in ("test", "val"):
                if other + number in manifest.splits:
                    pairs.setdefault(number, (name, other + number))
    if not pairs:
        raise DataError(f"a set must have splits train and test (or val), but has {', '.join(manifest.splits)}")
    missing = [number for number in wanted if number not in pairs]
    if missing:
        raise DataError(
            f"--splits must be of {', '.join(n or 'the only one' for n in pairs)}, but {missing[0]!r} is not"
        )
    return {number: pairs[number] for number in wanted or sorted(pairs, key=lambda n: (len(n), n))}


def held_out(train: LabelledSet, share: float, videos: int, seed: int) -> tuple[LabelledSet, LabelledSet]:
    """Two parts of a training split, the second with ``share`` of each class: to choose by, without a test video.

    Args:
        videos: of both together, at least: whole shards, whose videos were shuffled when they were written.
    """
    shards, labels = list[Shard](), dict[str, int]()
    for part in by_shard(train):
        if len(labels) < videos:
            shards += part.manifest.shards
            labels |= read_labels(train.folder, part.manifest)
    rank = ranked_by_class(list(labels), list(labels.values()), seed)
    asked = {video for video, place in zip(labels, rank, strict=True) if place < share}
    part = train._replace(manifest=replace(train.manifest, shards=tuple(shards)), rejected=[])
    first, second = ({v: c for v, c in labels.items() if (v in asked) is wanted} for wanted in (False, True))
    return part._replace(labels=first), part._replace(labels=second)


def by_shard(videos: LabelledSet) -> Iterator[LabelledSet]:
    """The same set, a shard at a time; ``labels`` stay the whole set's."""
    for shard in videos.manifest.shards:
        yield videos._replace(manifest=replace(videos.manifest, shards=(shard,)))


def rows(videos: LabelledSet) -> Iterator[dict[str, Any]]:
    """``id``, ``video``, ``label`` of each video, in the order stored."""
    fs, root = open_folder(videos.folder)
    for shard in videos.manifest.shards:
        for group in range(len(shard.row_groups)):
            yield from read_row_group(fs, f"{root}/{shard.file}", group).select(["id", "video", "label"]).to_pylist()


def training_batches(
    videos: LabelledSet, chosen: set[str], spec: ClipSpec, batch: int, seed: int, mapped: Map, epoch: int
) -> Iterator[Batch]:
    """One epoch of the ``chosen`` videos in whole batches, shuffled and drawn by (seed, epoch).

    A video that cannot be decoded is stood in for by the next of its task, as in pretraining.
    """
    tasks = _tasks(videos, chosen, batch, seed, epoch)
    decoded = mapped(partial(_cut, spec=spec, seed=seed), tasks)
    while parts := list(islice(decoded, len(range(0, batch, TASK_VIDEOS)))):
        yield to_batch({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _tasks(videos: LabelledSet, chosen: set[str], batch: int, seed: int, epoch: int) -> Iterator[list[dict[str, Any]]]:
    """Rows to be decoded together; those of one batch never mix with the next one's."""
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
