"""Reading and writing a file, on disk and on any filesystem that pyarrow knows: whole or not at all."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.fs

from paramcrop.errors import DataError


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Gives another name to write to; ``file`` is there, or replaced, once the block has ended well."""
    part = Path(unfinished(str(file)))
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_on(fs: pyarrow.fs.FileSystem, path: str) -> Iterator[str]:
    """``whole`` on any filesystem that pyarrow knows."""
    part = unfinished(path)
    try:
        yield part
        fs.move(part, path)
    except BaseException:
        with suppress(OSError, pa.ArrowException):  # nothing was written yet, or the store is away
            fs.delete_file(part)
        raise


def unfinished(path: str) -> str:
    """A hidden name beside ``path``, with the same ending, which no other writer of it has, not even another thread."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{uuid.uuid4().hex}.{name}"


def digest(source: BinaryIO, copy: BinaryIO | None = None) -> tuple[int, str]:
    """(bytes, sha256) of a stream, a MiB at a time; what is read is also written to ``copy``."""
    sha256, size = hashlib.sha256(), 0
    while chunk := source.read(2**20):
        sha256.update(chunk)
        size += len(chunk)
        if copy is not None:
            copy.write(chunk)
    return size, sha256.hexdigest()


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
    return pa.fs.LocalFileSystem(), str(Path(folder).expanduser().resolve())
