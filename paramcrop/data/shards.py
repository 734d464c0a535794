"""Shards: encoded videos in Parquet files, with a manifest that lists them.

A folder (a local path or a URI that pyarrow.fs supports) holds ``shard-00000.parquet`` ... and ``manifest.json``. The
manifest is written last, so a folder that has one is complete.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from paramcrop.data.manifest import Manifest, Shard, content_id, read_manifest, write_manifest
from paramcrop.errors import DataError, ShardError
from paramcrop.settings.digest import short_hash
from paramcrop.storage.files import digest, open_folder

VIDEO = "video"  # the column of encoded videos


class HashedParquet:
    """Writer of one Parquet file that hashes it on the way: ``write`` row groups, ``close``, then read the attributes.

    Attributes:
        bytes, sha256: size and hash of the file; valid after ``close``.
        payload: bytes of video written so far.
        row_groups: number of rows in each row group so far.
        ids: those of the videos so far.
    """

    def __init__(self, fs: pa.fs.FileSystem, path: str, schema: pa.Schema) -> None:
        self.bytes, self.sha256, self.payload, self.row_groups, self.ids = 0, "", 0, list[int](), list[str]()
        self._schema, self._sink = schema, _HashingSink(fs.open_output_stream(path))
        # Encoded video does not compress further, and statistics or dictionaries of it are useless.
        small = [column for column in _leaves(schema) if column != VIDEO]
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._sink, mode="w"),
            schema,
            compression={VIDEO: "NONE"} | dict.fromkeys(small, "ZSTD"),
            use_dictionary=[column for column in small if column.startswith("splits")],
            write_statistics=small,
        )

    def write(self, rows: list[dict[str, Any]]) -> None:
        """One row group."""
        self._writer.write_table(pa.Table.from_pylist(rows, self._schema), row_group_size=len(rows))
        self.row_groups.append(len(rows))
        self.ids += [row["id"] for row in rows]
        self.payload += sum(len(row[VIDEO]) for row in rows)

    def close(self) -> None:
        self._writer.close()
        self._sink.close()
        self.bytes, self.sha256 = self._sink.bytes, self._sink.sha256.hexdigest()


def _leaves(schema: pa.Schema) -> list[str]:
    """The column names in Parquet; a list column has the name of its elements."""
    return [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in schema]


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


# `video` is large_binary, because plain binary has 32-bit offsets and overflows at 2 GB per chunk.
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
        ("group", pa.string()),  # of near-duplicates; empty: by the id. Shards of older versions lack it
    ]
)


@dataclass(frozen=True)
class Video:
    """One row of a shard; see ``SCHEMA``."""

    id: str
    video: bytes
    fps: float
    frames: int
    height: int
    width: int
    label: int = -1
    splits: tuple[str, ...] = ("train",)
    source_sha256: str = ""
    group: str = ""


def write_shards(
    videos: Iterable[Video],
    folder: str,
    classes: Iterable[str] = (),
    settings: dict[str, Any] | None = None,
    shard_bytes: int = 256 * 2**20,
    row_group_bytes: int = 16 * 2**20,
    row_group_rows: int = 64,
) -> Manifest:
    """Write ``videos`` in the given order (shuffle them before) and then the manifest.

    A row group ends at ``row_group_bytes`` or ``row_group_rows``, whichever comes first; a reader holds one row group
    in memory. A shard ends at ``shard_bytes`` or where the splits change.

    Raises:
        DataError: two videos have the same id, or there are no videos.
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
                    raise DataError(f"video ids must be unique, but {video.id!r} occurs twice")
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
        raise DataError(f"there are no videos to write to {folder}")
    manifest = Manifest(content_id(sources.items(), settings or {}), tuple(classes), tuple(shards), settings or {})
    write_manifest(manifest, folder)
    return manifest


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.parquet"


def close_shard(file: HashedParquet, name: str, splits: tuple[str, ...]) -> Shard:
    """Finish a file -> its entry in the manifest."""
    file.close()
    return Shard(name, file.bytes, file.sha256, tuple(file.row_groups), splits, short_hash(file.ids, 16))


def row_groups(videos: Iterable[Video], max_bytes: int = 16 * 2**20, max_rows: int = 64) -> Iterator[list[Video]]:
    """Divide a stream of videos into row groups, which end at ``max_bytes`` or ``max_rows``, whichever comes first."""
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


def read_row_group(fs: pa.fs.FileSystem, path: str, row_group: int) -> pa.Table:
    """One row group as a table of ``SCHEMA``.

    Raises:
        ShardError: the file is missing, is not Parquet, or lacks the row group. DataError: the storage failed.
    """
    try:
        with fs.open_input_file(path) as source:
            return pq.ParquetFile(source).read_row_group(row_group)
    except (OSError, pa.ArrowException, IndexError) as error:
        raise (ShardError if _damaged(fs, error) else DataError)(
            f"cannot read row group {row_group} of {path}: {' '.join(str(error).split())}; "
            f"`paramcrop prepare --check --out {shlex.quote(path.rpartition('/')[0])}` names every damaged file"
        ) from error


def _damaged(fs: pa.fs.FileSystem, error: Exception) -> bool:
    """Whether a file, not its storage, is at fault. Arrow has no other word for either than OSError."""
    if not isinstance(error, OSError) or isinstance(error, FileNotFoundError):
        return True
    return isinstance(fs, pa.fs.LocalFileSystem) and not error.errno


def read_videos(folder: str) -> Iterator[Video]:
    """All videos of a folder in the order in which they were written."""
    fs, root = open_folder(folder)
    for shard in read_manifest(folder).shards:
        for group in range(len(shard.row_groups)):
            for row in read_row_group(fs, f"{root}/{shard.file}", group).to_pylist():
                yield Video(**row | {"splits": tuple(row["splits"])})


def check_shards(folder: str) -> list[str]:
    """Compare the size, checksum and rows of every shard with the manifest -> the problems, one line each."""
    fs, root = open_folder(folder)
    problems = []
    for shard in read_manifest(folder).shards:
        path = f"{root}/{shard.file}"
        try:
            with fs.open_input_stream(path) as source:
                size, sha256 = digest(source)
            if (size, sha256) != (shard.bytes, shard.sha256):
                expected = f"{shard.bytes} bytes with sha256 {shard.sha256}"
                problems.append(f"{shard.file}: must have {expected}, but has {size} bytes with sha256 {sha256}")
            elif (found := stored_row_groups(fs, path)) != shard.row_groups:
                problems.append(f"{shard.file}: must have row groups of {shard.row_groups} rows, but has {found}")
        except (OSError, pa.ArrowException) as error:
            problems.append(f"{shard.file}: cannot be read: {error}")
    return problems


def check_files(folder: str, manifest: Manifest, fix: str = "") -> None:
    """Check that every shard is there with its size, without reading any.

    Args:
        fix: what makes the files again; empty: ``paramcrop prepare`` does.

    Raises:
        ShardError: one is missing or has another size; the message names the first.
    """
    fs, root = open_folder(folder)
    try:
        sizes = {info.base_name: info.size for info in fs.get_file_info(pa.fs.FileSelector(root))}
    except (OSError, pa.ArrowException) as error:
        raise ShardError(f"{folder} must be a folder that can be listed: {error}") from None
    wrong = [shard for shard in manifest.shards if sizes.get(shard.file) != shard.bytes]
    if wrong:
        first, more = wrong[0], f" ({len(wrong)} of {len(manifest.shards)} shards are wrong)" if len(wrong) > 1 else ""
        found = f"it has {sizes[first.file]}" if first.file in sizes else "it is missing"
        command = f"`paramcrop prepare … --out {shlex.quote(folder)} --fresh`"
        fix = fix or f"{command}, with the options that made it, makes it again"
        raise ShardError(
            f"{folder}: {first.file} must have {first.bytes} bytes as its manifest says, but {found}{more}; {fix}"
        )


def stored_row_groups(fs: pa.fs.FileSystem, path: str) -> tuple[int, ...]:
    """The number of rows in each row group according to the Parquet file."""
    with fs.open_input_file(path) as source:
        metadata = pq.ParquetFile(source).metadata
        return tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
