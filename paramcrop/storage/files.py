"""Read files and write them atomically, on disk and on any filesystem that pyarrow supports."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs

from paramcrop.errors import DataError


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yield a temporary name to write to; if the block succeeds, it replaces ``file`` atomically."""
    part = Path(unfinished(str(file)))
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_write_on(fs: pyarrow.fs.FileSystem, path: str) -> Iterator[str]:
    """``atomic_write`` on any filesystem that pyarrow supports."""
    part = unfinished(path)
    try:
        yield part
        fs.move(part, path)
    except BaseException:
        with suppress(OSError, pa.ArrowException):  # nothing was written yet, or the store is unreachable
            fs.delete_file(part)
        raise


def unfinished(path: str) -> str:
    """A hidden name next to ``path`` with the same suffix, unique to this writer, even among threads."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{uuid.uuid4().hex}.{name}"


def digest(source: BinaryIO, copy: BinaryIO | None = None) -> tuple[int, str]:
    """Read a stream to its end, a MiB at a time, and write it to ``copy`` -> (bytes, sha256)."""
    sha256, size = hashlib.sha256(), 0
    while chunk := source.read(2**20):
        sha256.update(chunk)
        size += len(chunk)
        if copy is not None:
            copy.write(chunk)
    return size, sha256.hexdigest()


def open_folder(folder: str) -> tuple[pa.fs.FileSystem, str]:
    """Local path or URI -> (filesystem, path on it).

    In a URI, ``%20`` and the like are decoded; ``#``, blanks and other ``%`` are characters of the path.

    Raises:
        DataError: the URI's scheme is unknown or its store cannot be reached.
    """
    try:
        if local := re.fullmatch(r"file://(?:localhost)?(/.*)", folder, re.DOTALL):
            return _local(unquote(local[1]))
        return pa.fs.FileSystem.from_uri(_quoted(folder)) if "://" in folder else _local(folder)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{folder}: a folder must be a local path or a URI that pyarrow can open: {error}") from error


def _quoted(uri: str) -> str:
    """The URI with what its parser would take for the end of the path quoted; its options follow a question mark."""
    path, mark, options = uri.partition("?")
    path = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", path)
    return path.replace("#", "%23").replace(" ", "%20") + mark + options


def _local(folder: str) -> tuple[pa.fs.FileSystem, str]:
    return pa.fs.LocalFileSystem(), str(Path(folder).expanduser().resolve())


def local_path(where: str) -> Path | None:
    """The path of a folder on a file system, also of a ``file://`` URI; None for one in a bucket."""
    if where.startswith("file://"):
        return Path(unquote(where.removeprefix("file://").removeprefix("localhost")))
    return None if "://" in where else Path(where)
