"""The videos of an evaluation: labelled splits, their rows in order, and training batches of any subset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from paramcrop.data.batch import Batch, to_batch
from paramcrop.data.clips import ClipSpec, cut_sample
from paramcrop.data.groups import hold_out, merge_duplicates
from paramcrop.data.labels import VideoInfo, labelled_share, read_infos
from paramcrop.data.manifest import Manifest, Shard, read_manifest
from paramcrop.data.order import epoch_segments
from paramcrop.data.samples import cut_batch, read_segment
from paramcrop.data.shards import read_row_group
from paramcrop.data.uniform import direct
from paramcrop.errors import DataError
from paramcrop.evaluation.protocols import Protocol
from paramcrop.settings.explain import show
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
        about: the facts of the whole dataset, see ``Manifest.about``.
        labels: video id -> class index, in stored order. classes: class names.
        groups: video id -> name of its group of near-duplicates. sources: video id -> sha256 of its source.
        rejected: {"id", "reason"} of the split's videos that preparing the dataset left out.
    """

    folder: str
    manifest: Manifest
    about: dict[str, Any]
    labels: dict[str, int]
    classes: tuple[str, ...]
    groups: dict[str, str]
    sources: dict[str, str]
    rejected: list[dict[str, str]]

    @property
    def all(self) -> int:
        """The number of the split's videos, including rejected ones."""
        return len(self.labels) + len(self.rejected)


def read_split(folder: str, split: str | None) -> Mapping[str, VideoInfo]:
    """What the shards say of each video of a split (None: all), read once as long as they do not change.

    Raises:
        DataError: there is no such folder or split.
    """
    manifest = read_manifest(folder).select(split)
    return _read_split(folder, split, tuple(shard.sha256 for shard in manifest.shards))


@lru_cache(maxsize=8)
def _read_split(folder: str, split: str | None, shards: tuple[str, ...]) -> Mapping[str, VideoInfo]:
    return read_infos(folder, read_manifest(folder).select(split))


def open_split(folder: str, split: str) -> LabelledSet:
    """Read one split's manifest and labels.

    Raises:
        DataError: there is no such folder or split, or a video of it has no label.
    """
    whole = read_manifest(folder)
    manifest, infos = whole.select(split), read_split(folder, split)
    labels = {video: info.label for video, info in infos.items()}
    sources = {video: info.source for video, info in infos.items()}
    unlabelled = [video for video, label in labels.items() if label < 0]
    if unlabelled:
        count = f"{len(unlabelled)} of {len(labels)} have none, such as {unlabelled[0]}"
        raise DataError(f"{folder}: every video of split {split} must have a class, but {count}")
    rejected = [{"id": row["id"], "reason": row["reason"]} for row in manifest.rejected_of(split)]
    groups = merge_duplicates([info.group for info in infos.values()], list(sources.values()))
    named = dict(zip(infos, groups, strict=True))
    return LabelledSet(folder, manifest, whole.about, labels, manifest.classes, named, sources, rejected)


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
        raise DataError(
            f"a dataset must have splits train and test (or val), but has {', '.join(manifest.splits)}; "
            "prepare it with --test-share .2, or with a column `split` in the CSV of --annotations"
        )
    missing = [number for number in selected if number not in pairs]
    if missing:
        numbers = ", ".join(number for number in pairs if number)
        allowed = f"among {numbers}" if numbers else "unset, because the dataset has a single split"
        raise DataError(f"--splits must be {allowed}, but includes {missing[0]!r}")
    return {number: pairs[number] for number in selected or sorted(pairs, key=lambda n: (len(n), n))}


def open_pair(folder: str, splits: tuple[str, str], how: Protocol, seed: int) -> tuple[LabelledSet, LabelledSet]:
    """The videos that an evaluation trains on (or searches), and those that it tests.

    Raises:
        DataError: a split does not exist or has unlabelled videos, the two share videos, or they are too few.
    """
    train, test = (open_split(folder, split) for split in splits)
    check_disjoint(train, test, *splits)
    if how.kind == "validation":
        train, test = held_out(train, how.held_out, how.videos, seed)
    check_counts(train, test, splits[0], how, seed)
    return train, test


def check_disjoint(train: LabelledSet, test: LabelledSet, train_name: str, test_name: str) -> None:
    """Raises:
    DataError: videos of ``test`` are in ``train`` as well, by id or by source file; says how many, and names one.
    """
    if shared := overlap(train.sources, test.sources):
        raise DataError(
            f"two splits must not share a video, but {len(shared)} of the {len(test.sources)} videos of {test_name} "
            f"are also in {train_name}, such as {shared[0]}"
        )


def overlap(known: Mapping[str, str], videos: Mapping[str, str]) -> list[str]:
    """Which of ``videos`` are also in ``known``, by id or by source: "a", or "a (the same file as b)".

    Args:
        known, videos: video id -> sha256 of its source; empty: unknown.
    """
    files = {source: video for video, source in known.items() if source}
    same = {video: video if video in known else files.get(source) for video, source in videos.items()}
    return [
        video if video == other else f"{video} (the same file as {other})" for video, other in same.items() if other
    ]


def held_out(train: LabelledSet, share: float, videos: int, seed: int) -> tuple[LabelledSet, LabelledSet]:
    """Divide a training split in two, the second with ``share`` of each class, to choose settings without test videos.

    Videos of one group of near-duplicates stay together, see ``groups``.

    Args:
        videos: minimum size of both together. Complete shards are taken; their videos were shuffled when written.
    """
    shards = list[Shard]()
    for shard in train.manifest.shards:
        if sum(taken.videos for taken in shards) < videos:
            shards.append(shard)
    ids = list(train.labels)[: sum(shard.videos for shard in shards)]
    labels = [train.labels[video] for video in ids]
    queries = dict(zip(ids, hold_out([train.groups[video] for video in ids], labels, share, seed), strict=True))
    part = train._replace(manifest=replace(train.manifest, shards=tuple(shards)), rejected=[])
    first, second = ({v: train.labels[v] for v in ids if queries[v] is held} for held in (False, True))
    return part._replace(labels=first), part._replace(labels=second)


def check_counts(train: LabelledSet, test: LabelledSet, split: str, how: Protocol, seed: int) -> None:
    """Raises:
    DataError: a protocol has too few videos for its numbers; says what it needs.
    """
    name, n = how.name, len(train.labels)
    if how.kind == "validation" and not test.labels:
        raise DataError(f"{name} {_too_few(list(train.labels), train, split)}")
    if how.kind == "heads":
        chosen = sorted(labelled_share(list(train.labels), list(train.labels.values()), how.labels, seed))
        held = hold_out([train.groups[v] for v in chosen], [train.labels[v] for v in chosen], how.held_out, seed)
        if not any(held):
            raise DataError(f"{name} {_too_few(chosen, train, split)}")
    if how.kind in ("retrieval", "validation") and max(how.ranks) > n:
        fewer = show(tuple(k for k in how.ranks if k <= n))
        raise DataError(
            f"{name} needs {max(how.ranks)} training videos for R@{max(how.ranks)}, but searches {n} of split {split}; "
            f"set ranks={fewer}"
        )
    if how.kind == "knn" and how.neighbours > n:
        raise DataError(f"{name} needs {how.neighbours} training videos, but split {split} has {n}; set neighbours={n}")


def _too_few(videos: Sequence[str], train: LabelledSet, split: str) -> str:
    """ "needs a class with videos of two sources, of which it holds out one, but …"."""
    label, n = Counter(train.labels[video] for video in sorted(videos)).most_common(1)[0]
    largest = f"{train.classes[label]} has {n} video{'s' * (n > 1)}{' of one source' * (n > 1)}"
    return f"needs a class with videos of two sources, to hold out one, but split {split} has none ({largest})"


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
