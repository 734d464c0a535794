"""Reading and writing a file on any filesystem that pyarrow knows."""

from __future__ import annotations

import hashlib
import uuid
from typing import BinaryIO

import pyarrow.fs


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
