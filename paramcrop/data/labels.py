"""Labels of a set, and parts of it that hold the same share of each class: seeded, nested, the same everywhere."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from paramcrop.data.manifest import Manifest
from paramcrop.errors import DataError
from paramcrop.storage.files import open_folder


def ranked_by_class(ids: Sequence[str], labels: Sequence[int], seed: int) -> list[float]:
    """Each video's place among its class, in [0, 1): below a share lie that share of every class, rounded up.

    The order is by a hash of (seed, id), so a smaller share is part of a larger one.
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
    """The ids of ``share`` of each class's videos, at least one of each."""
    rank = ranked_by_class(ids, labels, seed)
    return {video for video, place in zip(ids, rank, strict=True) if place < share}


def read_labels(folder: str, manifest: Manifest) -> dict[str, int]:
    """Video id -> class number, -1 where it has none, in the order stored.

    Raises:
        DataError: a shard cannot be read.
    """
    fs, root = open_folder(folder)
    labels: dict[str, int] = {}
    for shard in manifest.shards:
        try:
            with fs.open_input_file(f"{root}/{shard.file}") as source:
                table = pq.ParquetFile(source).read(["id", "label"])
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{folder}/{shard.file} must be readable: {error}") from None
        labels |= dict(zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True))
    return labels


def labelled_rows(folder: str, manifest: Manifest, share: float, seed: int) -> dict[tuple[str, int], tuple[int, ...]]:
    """(file, row group) -> the rows in it that are of ``labelled_share``; row groups without one are left out.

    Raises:
        DataError: a shard cannot be read, or no video has a class.
    """
    labels = read_labels(folder, manifest)
    known = {video: label for video, label in labels.items() if label >= 0}
    if not known:
        raise DataError(f"{folder}: videos must have classes to learn from labels, but none has")
    chosen = labelled_share(list(known), list(known.values()), share, seed)
    ids, found = iter(labels), dict[tuple[str, int], tuple[int, ...]]()
    for shard in manifest.shards:
        for group, n in enumerate(shard.row_groups):
            rows = tuple(row for row, video in enumerate(islice(ids, n)) if video in chosen)
            found |= {(shard.file, group): rows} if rows else {}
    return found
