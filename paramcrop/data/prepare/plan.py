"""A dataset divided into pieces of work, one per shard, and the result of a piece."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from paramcrop.data.manifest import Shard
from paramcrop.data.prepare.datasets import Dataset, Source
from paramcrop.data.shards import shard_name
from paramcrop.settings.digest import short_hash

PARTS = "parts"
VERSION = 3  # increase it when the same settings no longer give the same videos


@dataclass(frozen=True)
class Piece:
    """The videos of one shard, all in the same splits.

    Attributes:
        labels: index into the classes for each of ``sources``; -1: none.
        id: a hash of everything that determines the shard.
    """

    number: int
    splits: tuple[str, ...]
    sources: tuple[Source, ...]
    labels: tuple[int, ...]
    settings: dict[str, Any]

    @property
    def file(self) -> str:
        return shard_name(self.number)

    @property
    def id(self) -> str:
        rows = [(s.id, s.path, s.bytes, label) for s, label in zip(self.sources, self.labels, strict=True)]
        return short_hash([self.number, self.splits, rows, self.settings], 16)


@dataclass(frozen=True)
class Plan:
    """All pieces of a dataset.

    Attributes:
        id: a hash of everything that determines the shards.
        unreadable: see ``Dataset``.
    """

    classes: tuple[str, ...]
    pieces: tuple[Piece, ...]
    missing: tuple[Source, ...]
    settings: dict[str, Any]
    id: str
    unreadable: tuple[str, ...] = ()

    @property
    def sources(self) -> list[Source]:
        """The videos whose files exist."""
        return [source for piece in self.pieces for source in piece.sources]

    @property
    def splits(self) -> dict[str, int]:
        """The number of files in each split, sorted by name."""
        return dict(sorted(Counter(split for source in self.sources for split in source.splits).items()))

    @property
    def bytes(self) -> int:
        return sum(source.bytes or 0 for source in self.sources)


@dataclass(frozen=True)
class Part:
    """The result of one piece.

    Attributes:
        piece: id of the piece.
        shard: None: none of its videos could be used.
        sources: (id, sha256) of each video in the shard.
        rejected, warnings, treatments: see ``Manifest``.
    """

    piece: str
    shard: Shard | None = None
    sources: list[tuple[str, str]] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)
    treatments: list[dict[str, str]] = field(default_factory=list)

    @property
    def done(self) -> int:
        return len(self.sources) + len(self.rejected)


def rejection(source: Source, reason: str) -> dict[str, str]:
    """The entry in the manifest of a video that was left out."""
    return {"id": source.id, "path": source.path, "splits": ",".join(source.splits), "reason": reason}


def unread(row: str) -> dict[str, str]:
    """The entry in the manifest of a row of a list, "list:line: reason", that cannot be read."""
    where, _, reason = row.partition(": ")
    return {"id": where, "path": where, "splits": "", "reason": f"the row of the list cannot be read\n{reason}"}


def part_path(root: str, piece: Piece) -> str:
    return f"{root}/{PARTS}/{PurePosixPath(piece.file).stem}.json"


def _annotation(source: Source) -> tuple[Any, ...]:
    """The annotation of a video. The group is left out if there is none, so that older content ids stay valid."""
    return source.id, source.label or "", source.splits, *([source.group] if source.group else [])


def make_plan(dataset: Dataset, name: str, short_side: int, crf: int, shard_videos: int, seed: int) -> Plan:
    """Shuffle by ``seed``, group by splits, and divide into pieces of ``shard_videos`` videos.

    The order is that of a hash of (seed, id), so it does not depend on the order in which files are listed.
    """
    existing = [source for source in dataset.sources if source.bytes is not None]
    missing = tuple(source for source in dataset.sources if source.bytes is None)
    settings = {"dataset": name, "short_side": short_side, "crf": crf, "version": VERSION}
    settings["annotations"] = short_hash(sorted(map(_annotation, dataset.sources)), 16)
    number = {label: i for i, label in enumerate(dataset.classes)}
    shuffled = sorted(existing, key=lambda source: (source.splits, short_hash([seed, source.id], 16)))
    pieces: list[Piece] = []
    for splits, group in groupby(shuffled, key=lambda source: source.splits):
        sources = tuple(group)
        for first in range(0, len(sources), shard_videos):
            chosen = sources[first : first + shard_videos]
            labels = tuple(-1 if source.label is None else number[source.label] for source in chosen)
            pieces.append(Piece(len(pieces), splits, chosen, labels, settings))
    made_from = [[piece.id for piece in pieces], [source.id for source in missing], dataset.classes, settings]
    return Plan(dataset.classes, tuple(pieces), missing, settings, short_hash(made_from, 16), dataset.unreadable)
