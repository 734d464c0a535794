"""A run's folder in a bucket: each process works on its own local copy, fetches others' files and sends its own.

A bucket can neither append to a file nor rename a folder, but it writes a file atomically. So every send replaces the
file, and the one that marks others as complete (a checkpoint's meta.json) comes last. Every file has one writer: while
a run trains, rank 0 writes metrics, samples, failures, crops and checkpoints; the command writes status and figures;
the evaluators write results. Imports no torch.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs

from paramcrop.errors import DataError
from paramcrop.settings.digest import text_hash
from paramcrop.storage.files import atomic_write, open_folder

R = TypeVar("R")
WAITS = (1, 2, 4, 8, 15, 30, 60, 60, 60)  # seconds between attempts while a store is unreachable: four minutes
LOCAL = pyarrow.fs.LocalFileSystem()
STAMPS = ".fetched.json"  # in a copy: size and modification time of each file when it was last fetched
MARK = ".uri"  # in a copy: the URI that it mirrors
HEAVY = ".pt"  # suffix of large files


def copies() -> Path:
    """The folder of this machine's local copies."""
    return Path(tempfile.gettempdir()) / f"paramcrop-{os.getuid()}" / "mirror"


@dataclass(frozen=True)
class Mirror:
    """A folder that several processes use.

    Attributes:
        folder: its path on this machine.
        uri: what ``folder`` is a copy of; if empty, ``folder`` is the original, and fetching and sending do nothing.
    """

    folder: Path
    uri: str = ""

    def __str__(self) -> str:
        return self.uri or str(self.folder)

    @staticmethod
    def of(uri: str, who: str) -> Mirror:
        """The local copy of ``who``. Concurrent processes need different names, because each writes into its copy."""
        name = text_hash(uri.rpartition("/")[0], 12)
        return Mirror(copies() / name / who / uri.rpartition("/")[2], uri)

    def fetch(self, *names: str, light: bool = False, waits: Iterable[float] = WAITS) -> None:
        """Bring local files up to date with the bucket, and delete those that it does not have.

        Args:
            names: files, or folders with a final "/"; without names, everything except ``HEAVY`` files.
            light: leave weights and features (``HEAVY``) alone, here and there.

        Raises:
            OSError: the store stays unreachable.
        """
        if self.uri:
            retry(lambda: self._fetch(names or ("",), light or not names), waits)

    def send(self, *names: str, waits: Iterable[float] = WAITS) -> None:
        """Send files, or folders with a final "/", in this order, meta.json last; skip names that do not exist.

        Raises:
            OSError: the store stays unreachable.
        """
        if self.uri:
            retry(lambda: self._send(names), waits)

    def remove(self, name: str) -> None:
        """Delete a file from the bucket, if it is there."""
        for info in self._remote_files(name) if self.uri else ():
            self._store[0].delete_file(info.path)

    def forget(self) -> None:
        """Delete the local copy; the bucket stays as it is."""
        if self.uri:
            shutil.rmtree(self.folder, ignore_errors=True)

    @cached_property
    def _store(self) -> tuple[pa.fs.FileSystem, str]:
        return open_folder(self.uri)

    def _fetch(self, names: Iterable[str], light: bool) -> None:
        stamps = self._stamps()
        for name in names:
            remote = {self._name(info): info for info in self._remote_files(name)}
            remote = {path: info for path, info in remote.items() if not (light and path.endswith(HEAVY))}
            remote = {path: info for path, info in remote.items() if not path.startswith("lease/")}
            kept = (p for p in self._local_files(name) if not (light and p.endswith(HEAVY)))
            for path in (p for p in kept if p not in remote):
                (self.folder / path).unlink(missing_ok=True)
            for path, info in remote.items():
                # The stamp tells whether the bucket's file has changed, the size whether the local one has.
                if stamps.get(path) != _stamp(info) or not self._unchanged(path, stamps):
                    try:
                        self._download(path, info)
                    except FileNotFoundError:  # it was removed since it was listed
                        continue
                    stamps[path] = _stamp(info)
        self._write_stamps(stamps)

    def _send(self, names: Iterable[str]) -> None:
        fs, root = self._store
        for path in (path for name in names for path in sorted(self._local_files(name), key=_meta_last)):
            if fs.type_name == "local":  # only a file system needs the folder to exist
                fs.create_dir(f"{root}/{path}".rpartition("/")[0])
            pa.fs.copy_files(
                str(self.folder / path),
                f"{root}/{path}",
                source_filesystem=LOCAL,
                destination_filesystem=fs,
                use_threads=False,
            )

    def _download(self, path: str, info: pa.fs.FileInfo) -> None:
        fs, _ = self._store
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            pa.fs.copy_files(
                info.path, str(part), source_filesystem=fs, destination_filesystem=LOCAL, use_threads=False
            )

    def _remote_files(self, name: str) -> list[pa.fs.FileInfo]:
        """The bucket's file ``name``, or its files in that folder."""
        fs, root = self._store
        if name and not name.endswith("/"):
            infos = fs.get_file_info([f"{root}/{name}"])
        else:
            below = f"{root}/{name}".rstrip("/")
            infos = fs.get_file_info(pa.fs.FileSelector(below, recursive=True, allow_not_found=True))
        return [info for info in infos if info.type == pa.fs.FileType.File]

    def _local_files(self, name: str) -> list[str]:
        """The copy's file ``name``, or its files in that folder, without hidden ones: those stay local."""
        path = self.folder / name
        found = [path] if path.is_file() else path.rglob("*") if name.endswith("/") or not name else []
        relative = (p.relative_to(self.folder) for p in found if p.is_file())
        return [str(p) for p in relative if not any(part.startswith(".") for part in p.parts)]

    def _name(self, info: pa.fs.FileInfo) -> str:
        return str(info.path).removeprefix(self._store[1] + "/")

    def _stamps(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            stamps: dict[str, Any] = json.loads((self.folder / STAMPS).read_text())
            return stamps
        return {}

    def _write_stamps(self, stamps: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / STAMPS) as part:
            part.write_text(json.dumps(stamps))
        (self.folder / MARK).write_text(self.uri)

    def _unchanged(self, path: str, stamps: dict[str, Any]) -> bool:
        """Whether the copy's file exists with the size that it was fetched with."""
        file = self.folder / path
        return file.exists() and file.stat().st_size == stamps[path][0]


def mirror_at(folder: Path) -> Mirror:
    """The mirror of a folder that may be a local copy."""
    with suppress(OSError):
        return Mirror(folder, (folder / MARK).read_text())
    return Mirror(folder)


def retry(call: Callable[[], R], waits: Iterable[float] = WAITS) -> R:
    """Call until the store answers, with these waits in seconds; a missing file is an answer and raises at once.

    Raises:
        OSError, DataError: the error of the last attempt.
    """
    for wait in waits:
        try:
            return call()
        except FileNotFoundError:
            raise
        except (OSError, DataError):  # DataError: the store could not be opened, for example because DNS failed
            time.sleep(wait)
    return call()


def check_writable(uri: str) -> None:
    """Write a small file into a folder or bucket and remove it.

    Raises:
        DataError: it cannot be written; the message gives the store's reason.
    """
    probe = f".paramcrop-{uuid.uuid4().hex}"
    try:
        fs, root = open_folder(uri)
        with fs.open_output_stream(f"{root}/{probe}") as sink:
            sink.write(b"")
        fs.delete_file(f"{root}/{probe}")
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{uri} must exist and be writable: {' '.join(str(error).split())[:300]}") from None


def folders_in(uri: str) -> list[str]:
    """The names of the folders directly below a URI.

    Raises:
        DataError: the store does not answer.
    """
    try:
        fs, root = open_folder(uri)
        found = fs.get_file_info(pa.fs.FileSelector(root, allow_not_found=True))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{uri} must be readable: {' '.join(str(error).split())[:300]}") from None
    return sorted(info.base_name for info in found if info.type == pa.fs.FileType.Directory)


def _stamp(info: pa.fs.FileInfo) -> list[int]:
    return [info.size, info.mtime_ns or 0]


def _meta_last(path: str) -> tuple[bool, str]:
    """Sort key: meta.json, which marks a folder as complete, comes last."""
    return Path(path).name == "meta.json", path
