"""Labels of a dataset, and stratified subsets of it: seeded, nested, and equal on every machine."""

from __future__ import annotations

import hashlib
import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from paramcrop.data.groups import group_of
from paramcrop.data.manifest import Manifest
from paramcrop.errors import DataError, ShardError
from paramcrop.storage.files import open_folder


class VideoInfo(NamedTuple):
    """The metadata of a video.

    Attributes:
        label: class number; -1: none.
        group: name of its group of near-duplicates, see ``groups``; its id if it has none.
        source: sha256 of its source file; empty: unknown.
    """

    label: int
    group: str
    source: str


def ranked_by_class(ids: Sequence[str], labels: Sequence[int], seed: int) -> list[float]:
    """The rank of each video within its class, in [0, 1).

    The videos whose rank is below a share are that share of every class, rounded up. The order follows a hash of
    (seed, id), so a smaller share is a subset of a larger one.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for i, label in enumerate(labels):
        members[label].append(i)
    rank = [0.0] * len(ids)
    for rows in members.values():
        rows.sort(key=lambda i: hashlib.sha256(f"{seed}/{ids[i]}".encode()).digest())
        for place, i in enumerate(rows):
            rank[i] = place / len(rows)
    return rank


def labelled_share(ids: Sequence[str], labels: Sequence[int], share: float, seed: int) -> set[str]:
    """The ids of ``share`` of the videos of each class, at least one per class."""
    rank = ranked_by_class(ids, labels, seed)
    return {video for video, place in zip(ids, rank, strict=True) if place < share}


def read_labels(folder: str, manifest: Manifest) -> dict[str, int]:
    """Video id -> class number (-1: none), in stored order.

    Raises:
        ShardError: a shard cannot be read.
    """
    return {row["id"]: row["label"] for row in _rows(folder, manifest, ("id", "label"))}


def read_infos(folder: str, manifest: Manifest) -> dict[str, VideoInfo]:
    """Video id -> metadata, in stored order.

    Raises:
        ShardError: a shard cannot be read.
    """
    dataset, columns = manifest.settings.get("dataset", ""), ("id", "label", "source_sha256", "group")
    rows = _rows(folder, manifest, columns)
    return {
        row["id"]: VideoInfo(row["label"], row.get("group") or group_of(dataset, row["id"]), row["source_sha256"] or "")
        for row in rows
    }


def _rows(folder: str, manifest: Manifest, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of all shards, with the ``columns`` that a shard has."""
    fs, root = open_folder(folder)
    for shard in manifest.shards:
        try:
            with fs.open_input_file(f"{root}/{shard.file}") as source:
                file = pq.ParquetFile(source)
                table = file.read([name for name in columns if name in file.schema_arrow.names])
        except (OSError, pa.ArrowException) as error:
            raise ShardError(
                f"cannot read {folder}/{shard.file}: {' '.join(str(error).split())}; "
                f"`paramcrop prepare … --out {shlex.quote(folder)} --fresh` makes it again"
            ) from None
        yield from table.to_pylist()


def labelled_rows(folder: str, manifest: Manifest, share: float, seed: int) -> dict[tuple[str, int], tuple[int, ...]]:
    """(file, row group) -> its rows that belong to ``labelled_share``; row groups without such a row are left out.

    Raises:
        ShardError: a shard cannot be read. DataError: no video has a label.
    """
    labels = read_labels(folder, manifest)
    known = {video: label for video, label in labels.items() if label >= 0}
    if not known:
        raise DataError(f"the method learns from labels, but no video in {folder} has one")
    chosen = labelled_share(list(known), list(known.values()), share, seed)
    ids, found = iter(labels), dict[tuple[str, int], tuple[int, ...]]()
    for shard in manifest.shards:
        for group, n in enumerate(shard.row_groups):
            rows = tuple(row for row, video in enumerate(islice(ids, n)) if video in chosen)
            found |= {(shard.file, group): rows} if rows else {}
    return found
