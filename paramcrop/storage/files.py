"""Reading and writing a file on any filesystem that pyarrow knows."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.fs

from paramcrop.errors import DataError


def write_whole(fs: pyarrow.fs.FileSystem, path: str, data: bytes) -> None:
    """The file appears whole or not at all, whoever else is writing it."""
    making = unfinished(path)
    with fs.open_output_stream(making) as sink:
        sink.write(data)
    fs.move(making, path)


def unfinished(path: str) -> str:
    """A name of this attempt's own for a file that is being written."""
    return f"{path}.{uuid.uuid4().hex}.part"


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
    from pathlib import Path

    return pa.fs.LocalFileSystem(), str(Path(folder).expanduser().resolve())


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Gives another name with the same ending, to write to; ``file`` is there, or replaced, when that has gone well."""
    part = file.with_name(f".{os.getpid()}.{file.name}")
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
