"""Shards: encoded videos in Parquet files, and the manifest that is written last and says what is in them.

A folder (local path or any URI that pyarrow.fs knows) holds ``shard-00000.parquet`` ... and ``manifest.json``. The
manifest's presence means that the folder is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from paramcrop.data.parquet import HashedParquet
from paramcrop.errors import DataError
from paramcrop.storage.files import digest, write_whole

FORMAT = "paramcrop-shards/2"
MANIFEST = "manifest.json"

# `video` is large_binary: plain binary has 32-bit offsets and overflows at 2 GB a chunk.
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("video", pa.large_binary()),
        ("fps", pa.float32()),
        ("frames", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("label", pa.int32()),  # index into the manifest's classes; -1: unlabelled
        ("splits", pa.list_(pa.string())),
        ("source_sha256", pa.string()),
    ]
)


@dataclass(frozen=True)
class Video:
    """One row of a shard."""

    id: str
    video: bytes
    fps: float
    frames: int
    height: int
    width: int
    label: int = -1
    splits: tuple[str, ...] = ("train",)
    source_sha256: str = ""


@dataclass(frozen=True)
class Shard:
    """One Parquet file.

    ``row_groups`` are the rows in each of its row groups, in order; every row is in exactly the splits ``splits``.
    """

    file: str
    bytes: int
    sha256: str
    row_groups: tuple[int, ...]
    splits: tuple[str, ...] = ("train",)

    @property
    def videos(self) -> int:
        return sum(self.row_groups)


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds.

    ``content_id`` is a hash of the sorted (video id, source sha256) and of the settings they were prepared with: equal
    ids mean equal data, wherever the folder lies and however it is cut into files.

    Attributes:
        rejected: what was left out, as {"id", "path", "splits" (with commas between), "reason"}.
        warnings: what was kept but is not whole, as {"id", "path", "text"}.
        plan: a hash of what was to be prepared; empty where that is not known.
    """

    content_id: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    rejected: tuple[dict[str, str], ...] = ()
    warnings: tuple[dict[str, str], ...] = ()
    plan: str = ""

    @property
    def videos(self) -> int:
        return sum(shard.videos for shard in self.shards)

    @property
    def splits(self) -> dict[str, int]:
        """Every split and its number of videos, sorted by name."""
        names = sorted({name for shard in self.shards for name in shard.splits})
        return {name: sum(shard.videos for shard in self.shards if name in shard.splits) for name in names}

    @property
    def about(self) -> dict[str, Any]:
        """What a reader of results must know of these videos: which dataset, how many, of how many classes."""
        return {"dataset": self.settings.get("dataset", ""), "videos": self.videos, "classes": len(self.classes)}

    def rejected_of(self, split: str) -> list[dict[str, str]]:
        """What was left out of one split."""
        return [row for row in self.rejected if split in row.get("splits", "").split(",")]

    def select(self, split: str | None) -> Manifest:
        """The shards of one split (None: all); the content id stays the folder's.

        Raises:
            DataError: there is no such split.
        """
        if split is None:
            return self
        if split not in self.splits:
            raise DataError(f"a split must be one of {', '.join(self.splits)}, but is {split!r}")
        return replace(self, shards=tuple(shard for shard in self.shards if split in shard.splits))


def content_id(sources: Iterable[tuple[str, str]], settings: dict[str, Any]) -> str:
    """16 hex digits over the sorted (id, source sha256) pairs and the prepare settings."""
    text = json.dumps([sorted(sources), settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_folder(folder: str) -> tuple[pa.fs.FileSystem, str]:
    """Local path or URI -> (filesystem, path on it).

    Raises:
        DataError: the URI's scheme is not known or its store cannot be reached.
    """
    try:
        return pa.fs.FileSystem.from_uri(folder) if "://" in folder else _local(folder)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{folder}: a folder must be a local path or a URI that pyarrow can open: {error}") from error


def _local(folder: str) -> tuple[pa.fs.FileSystem, str]:
    from pathlib import Path

    return pa.fs.LocalFileSystem(), str(Path(folder).expanduser().resolve())


def write_shards(
    videos: Iterable[Video],
    folder: str,
    classes: Iterable[str] = (),
    settings: dict[str, Any] | None = None,
    shard_bytes: int = 256 * 2**20,
    row_group_bytes: int = 16 * 2**20,
    row_group_rows: int = 64,
) -> Manifest:
    """Write ``videos`` in the order given (shuffle them before) and the manifest last.

    A row group closes at ``row_group_bytes`` or ``row_group_rows``, whichever comes first: it is what a reader holds
    in memory at once. A shard closes at ``shard_bytes``, and where the splits change.

    Raises:
        DataError: two videos have the same id, or there is none.
    """
    fs, root = open_folder(folder)
    fs.create_dir(root, recursive=True)
    shards: list[Shard] = []
    sources: dict[str, str] = {}
    for splits, group in groupby(videos, key=lambda video: video.splits):
        file: HashedParquet | None = None
        for rows in row_groups(group, row_group_bytes, row_group_rows):
            for video in rows:
                if video.id in sources:
                    raise DataError(f"video ids must be unique, but {video.id!r} comes twice")
                sources[video.id] = video.source_sha256
            name = shard_name(len(shards))
            file = file or HashedParquet(fs, f"{root}/{name}", SCHEMA)
            file.write([asdict(row) for row in rows])
            if file.payload >= shard_bytes:
                shards.append(close_shard(file, name, splits))
                file = None
        if file is not None:
            shards.append(close_shard(file, shard_name(len(shards)), splits))
    if not sources:
        raise DataError(f"{folder}: a dataset must hold at least one video, but none was given")
    manifest = Manifest(content_id(sources.items(), settings or {}), tuple(classes), tuple(shards), settings or {})
    write_manifest(manifest, folder)
    return manifest


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.parquet"


def close_shard(file: HashedParquet, name: str, splits: tuple[str, ...]) -> Shard:
    """Finish a file -> what the manifest says of it."""
    file.close()
    return Shard(name, file.bytes, file.sha256, tuple(file.row_groups), splits)


def row_groups(videos: Iterable[Video], max_bytes: int = 16 * 2**20, max_rows: int = 64) -> Iterator[list[Video]]:
    """Cut a stream of videos into row groups, each closed at ``max_bytes`` or ``max_rows``, whichever comes first."""
    rows: list[Video] = []
    size = 0
    for video in videos:
        rows.append(video)
        size += len(video.video)
        if len(rows) >= max_rows or size >= max_bytes:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def write_manifest(manifest: Manifest, folder: str) -> None:
    fs, root = open_folder(folder)
    totals = {"format": FORMAT, "videos": manifest.videos, "bytes": sum(shard.bytes for shard in manifest.shards)}
    write_whole(fs, f"{root}/{MANIFEST}", json.dumps(totals | asdict(manifest), indent=1).encode())


def read_manifest(folder: str) -> Manifest:
    """Raises:
    DataError: there is no manifest (the folder is missing or unfinished), or it is not one of ours.
    """
    fs, root = open_folder(folder)
    try:
        with fs.open_input_stream(f"{root}/{MANIFEST}") as source:
            fields = json.loads(source.read())
    except FileNotFoundError:
        raise DataError(
            f"{folder}: a data folder must hold a {MANIFEST}, but it does not (missing, or not finished)"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}/{MANIFEST} must be readable JSON: {error}") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        found = fields.get("format") if isinstance(fields, dict) else type(fields).__name__
        raise DataError(f"{folder}/{MANIFEST} must be of format {FORMAT!r}, but says {found!r}")
    shards = tuple(shard_from_json(shard) for shard in fields["shards"])
    settings, rejected, warnings = fields["settings"], tuple(fields["rejected"]), tuple(fields["warnings"])
    return Manifest(
        fields["content_id"], tuple(fields["classes"]), shards, settings, rejected, warnings, fields["plan"]
    )


def shard_from_json(fields: dict[str, Any]) -> Shard:
    return Shard(**fields | {"row_groups": tuple(fields["row_groups"]), "splits": tuple(fields["splits"])})


def read_row_group(fs: pa.fs.FileSystem, path: str, row_group: int) -> pa.Table:
    """One row group as a table of ``SCHEMA``.

    Raises:
        DataError: the file is missing, is not Parquet, or lacks the row group.
    """
    try:
        with fs.open_input_file(path) as source:
            return pq.ParquetFile(source).read_row_group(row_group)
    except (OSError, pa.ArrowException, IndexError) as error:
        raise DataError(f"{path}: row group {row_group} must be readable: {error}") from error


def read_videos(folder: str) -> Iterator[Video]:
    """Every video of a folder, in the order it was written."""
    fs, root = open_folder(folder)
    for shard in read_manifest(folder).shards:
        for group in range(len(shard.row_groups)):
            for row in read_row_group(fs, f"{root}/{shard.file}", group).to_pylist():
                yield Video(**row | {"splits": tuple(row["splits"])})


def check_shards(folder: str) -> list[str]:
    """Compare every shard with the manifest: size, checksum, rows -> the problems found, one line each."""
    fs, root = open_folder(folder)
    problems = []
    for shard in read_manifest(folder).shards:
        path = f"{root}/{shard.file}"
        try:
            with fs.open_input_stream(path) as source:
                size, sha256 = digest(source)
            if (size, sha256) != (shard.bytes, shard.sha256):
                told = f"must be {shard.bytes} bytes, sha256 {shard.sha256}, but is {size}, {sha256}"
                problems.append(f"{shard.file}: {told}")
            elif (found := stored_row_groups(fs, path)) != shard.row_groups:
                problems.append(f"{shard.file}: row groups must hold {shard.row_groups} rows, but hold {found}")
        except (OSError, pa.ArrowException) as error:
            problems.append(f"{shard.file}: must be readable: {error}")
    return problems


def stored_row_groups(fs: pa.fs.FileSystem, path: str) -> tuple[int, ...]:
    """Rows in each row group, as the Parquet file itself says."""
    with fs.open_input_file(path) as source:
        metadata = pq.ParquetFile(source).metadata
        return tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
