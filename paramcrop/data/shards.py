"""Shards: encoded videos in Parquet files, and the manifest that is written last and says what is in them.

A folder (local path or any URI that pyarrow.fs knows) holds ``shard-00000.parquet`` ... and ``manifest.json``. The
manifest's presence means that the folder is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from paramcrop.errors import DataError

FORMAT = "paramcrop-shards/1"
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
        ("split", pa.string()),
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
    split: str = "train"
    source_sha256: str = ""


@dataclass(frozen=True)
class Shard:
    """One Parquet file; ``row_groups`` are the rows in each of its row groups, in order."""

    file: str
    bytes: int
    sha256: str
    row_groups: tuple[int, ...]


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds.

    ``content_id`` is a hash of the sorted (video id, source sha256) and of the settings they were prepared with: equal
    ids mean equal data, wherever the folder lies and however it is cut into files.
    """

    content_id: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    rejected: tuple[dict[str, str], ...] = ()

    @property
    def videos(self) -> int:
        return sum(sum(shard.row_groups) for shard in self.shards)


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
        raise DataError(f"{folder}: a data folder must be a local path or a URI pyarrow can open: {error}") from error


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
    in memory at once. A shard closes at ``shard_bytes``.

    Raises:
        DataError: two videos have the same id, or there is none.
    """
    fs, root = open_folder(folder)
    fs.create_dir(root, recursive=True)
    shards: list[Shard] = []
    sources: dict[str, str] = {}
    writer: _ShardFile | None = None
    for rows in _row_groups(videos, row_group_bytes, row_group_rows):
        for video in rows:
            if video.id in sources:
                raise DataError(f"video ids must be unique, but {video.id!r} comes twice")
            sources[video.id] = video.source_sha256
        writer = writer or _ShardFile(fs, root, f"shard-{len(shards):05d}.parquet")
        writer.write(rows)
        if writer.size >= shard_bytes:
            shards.append(writer.close())
            writer = None
    if writer is not None:
        shards.append(writer.close())
    if not sources:
        raise DataError(f"{folder}: a dataset must hold at least one video, but none was given")
    manifest = Manifest(content_id(sources.items(), settings or {}), tuple(classes), tuple(shards), settings or {})
    write_manifest(manifest, folder)
    return manifest


def _row_groups(videos: Iterable[Video], max_bytes: int, max_rows: int) -> Iterator[list[Video]]:
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


class _ShardFile:
    """One Parquet file while it is written; hashes the bytes as they pass."""

    def __init__(self, fs: pa.fs.FileSystem, root: str, name: str) -> None:
        self.name, self.size, self.row_groups = name, 0, list[int]()
        self._sink = _HashingSink(fs.open_output_stream(f"{root}/{name}"))
        # Encoded video does not compress, and statistics or dictionaries over it are waste.
        small = [column for column in SCHEMA.names if column != "video"]
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._sink, mode="w"),
            SCHEMA,
            compression={"video": "NONE"} | dict.fromkeys(small, "ZSTD"),
            use_dictionary=["split"],
            write_statistics=small,
        )

    def write(self, rows: list[Video]) -> None:
        self._writer.write_table(pa.Table.from_pylist([asdict(row) for row in rows], SCHEMA), row_group_size=len(rows))
        self.row_groups.append(len(rows))
        self.size += sum(len(row.video) for row in rows)

    def close(self) -> Shard:
        self._writer.close()
        self._sink.close()
        return Shard(self.name, self._sink.bytes, self._sink.sha256.hexdigest(), tuple(self.row_groups))


class _HashingSink:
    def __init__(self, sink: Any) -> None:
        self._sink, self.bytes, self.sha256 = sink, 0, hashlib.sha256()
        self.closed = False

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.bytes += len(data)
        self._sink.write(data)
        return len(data)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self._sink.flush()

    def close(self) -> None:
        if not self.closed:
            self._sink.close()
            self.closed = True


def write_manifest(manifest: Manifest, folder: str) -> None:
    fs, root = open_folder(folder)
    totals = {"format": FORMAT, "videos": manifest.videos, "bytes": sum(shard.bytes for shard in manifest.shards)}
    with fs.open_output_stream(f"{root}/{MANIFEST}.part") as sink:
        sink.write(json.dumps(totals | asdict(manifest), indent=1).encode())
    fs.move(f"{root}/{MANIFEST}.part", f"{root}/{MANIFEST}")


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
    shards = tuple(Shard(**{**shard, "row_groups": tuple(shard["row_groups"])}) for shard in fields["shards"])
    return Manifest(
        fields["content_id"], tuple(fields["classes"]), shards, fields["settings"], tuple(fields["rejected"])
    )


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
                yield Video(**row)


def check_shards(folder: str) -> list[str]:
    """Compare every shard's size and checksum with the manifest -> the problems found, one line each."""
    fs, root = open_folder(folder)
    problems = []
    for shard in read_manifest(folder).shards:
        try:
            with fs.open_input_stream(f"{root}/{shard.file}") as source:
                size, sha256 = _digest(source)
        except OSError as error:
            problems.append(f"{shard.file}: must be readable: {error}")
            continue
        if (size, sha256) != (shard.bytes, shard.sha256):
            problems.append(
                f"{shard.file}: must be {shard.bytes} bytes, sha256 {shard.sha256}, but is {size}, {sha256}"
            )
    return problems


def _digest(source: BinaryIO) -> tuple[int, str]:
    sha256, size = hashlib.sha256(), 0
    while chunk := source.read(2**20):
        sha256.update(chunk)
        size += len(chunk)
    return size, sha256.hexdigest()
