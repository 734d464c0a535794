"""A run's folder in a bucket: each process works on a copy of its own, fetches what others wrote, sends what it wrote.

A bucket has no appending and no renaming of folders, but a file appears whole or not at all. So a file is sent whole,
and what makes others complete (a checkpoint's meta.json) is sent last. While a run trains, rank 0 alone writes
metrics, samples, failures, crops and checkpoints; status and figures are the command's; results are the evaluators'.
Imports no torch.
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
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs

from paramcrop.errors import DataError
from paramcrop.settings.digest import text_hash
from paramcrop.storage.files import open_folder, whole

R = TypeVar("R")
WAITS = (1, 2, 4, 8, 15, 30, 60, 60, 60)  # seconds between tries while a store is away: four minutes
SIZE = 2**20  # bytes copied at a time
STAMPS = ".fetched.json"  # in a copy: what each file was when it was last fetched
MARK = ".uri"  # in a copy: of what it is one
HEAVY = ".pt"


def copies() -> Path:
    """Where this machine's copies lie."""
    return Path(tempfile.gettempdir()) / f"paramcrop-{os.getuid()}" / "mirror"


@dataclass(frozen=True)
class Mirror:
    """A folder that several processes see.

    Attributes:
        folder: on this machine. uri: of what it is a copy; empty: it is the folder itself, and nothing is to be done.
    """

    folder: Path
    uri: str = ""

    def __str__(self) -> str:
        return self.uri or str(self.folder)

    @staticmethod
    def of(uri: str, who: str) -> Mirror:
        """``who``'s copy on this machine: no two processes at work may share one, for both would write into it."""
        name = text_hash(uri.rpartition("/")[0], 12)
        return Mirror(copies() / name / who / uri.rpartition("/")[2], uri)

    def fetch(self, *names: str, light: bool = False, waits: Iterable[float] = WAITS) -> None:
        """Make files, or all below a name that ends in "/", what the bucket has; without names: all that is light.

        Args:
            light: leave out weights and features (``HEAVY``).

        Raises:
            OSError: the store stays away.
        """
        if self.uri:
            patiently(lambda: self._fetch(names or ("",), light or not names), waits)

    def send(self, *names: str, waits: Iterable[float] = WAITS) -> None:
        """Send files, or all below a name that ends in "/", in this order, meta.json last; what is absent is left out.

        Raises:
            OSError: the store stays away.
        """
        if self.uri:
            patiently(lambda: self._send(names), waits)

    def remove(self, name: str) -> None:
        """A file, if it is in the bucket."""
        for info in self._listed(name) if self.uri else ():
            self._store[0].delete_file(info.path)

    def set_aside(self) -> str | None:
        """Give all of it another name, NAME~1 and so on -> that; None: there is nothing."""
        found = [info.path for info in self._listed("")]
        if not found:
            return None
        fs, root = self._store
        aside = next(p for n in count(1) if not _exists(fs, p := f"{root}~{n}"))
        for path in found:
            if fs.type_name == "local":
                fs.create_dir((aside + path.removeprefix(root)).rpartition("/")[0])
            fs.copy_file(path, aside + path.removeprefix(root))
        fs.delete_dir_contents(root, missing_dir_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        return aside

    @cached_property
    def _store(self) -> tuple[pa.fs.FileSystem, str]:
        return open_folder(self.uri)

    def _fetch(self, names: Iterable[str], light: bool) -> None:
        stamps = self._stamps()
        for name in names:
            there = {self._name(info): info for info in self._listed(name)}
            there = {path: info for path, info in there.items() if not (light and path.endswith(HEAVY))}
            for path in (p for p in self._here(name) if p not in there):
                (self.folder / path).unlink(missing_ok=True)
            for path, info in there.items():
                if stamps.get(path) != _stamp(info) or not self._unchanged(path, stamps):
                    self._download(path, info)
                    stamps[path] = _stamp(info)
        self._keep(stamps)

    def _send(self, names: Iterable[str]) -> None:
        fs, root = self._store
        for path in (path for name in names for path in sorted(self._here(name), key=_whole_last)):
            if fs.type_name == "local":  # buckets need no folders
                fs.create_dir(f"{root}/{path}".rpartition("/")[0])
            with (self.folder / path).open("rb") as source, fs.open_output_stream(f"{root}/{path}") as sink:
                shutil.copyfileobj(source, sink, SIZE)

    def _download(self, path: str, info: pa.fs.FileInfo) -> None:
        fs, _ = self._store
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        with whole(place) as part, fs.open_input_stream(info.path) as source, part.open("wb") as sink:
            shutil.copyfileobj(source, sink, SIZE)

    def _listed(self, name: str) -> list[pa.fs.FileInfo]:
        """The bucket's files of that name or below it."""
        fs, root = self._store
        if name and not name.endswith("/"):
            infos = fs.get_file_info([f"{root}/{name}"])
        else:
            below = f"{root}/{name}".rstrip("/")
            infos = fs.get_file_info(pa.fs.FileSelector(below, recursive=True, allow_not_found=True))
        return [info for info in infos if info.type == pa.fs.FileType.File]

    def _here(self, name: str) -> list[str]:
        """This copy's files of that name or below it; hidden ones are a process's own."""
        place = self.folder / name
        found = [place] if place.is_file() else place.rglob("*") if name.endswith("/") or not name else []
        relative = (p.relative_to(self.folder) for p in found if p.is_file())
        return [str(p) for p in relative if not any(part.startswith(".") for part in p.parts)]

    def _name(self, info: pa.fs.FileInfo) -> str:
        return str(info.path).removeprefix(self._store[1] + "/")

    def _stamps(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            stamps: dict[str, Any] = json.loads((self.folder / STAMPS).read_text())
            return stamps
        return {}

    def _keep(self, stamps: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole(self.folder / STAMPS) as part:
            part.write_text(json.dumps(stamps))
        (self.folder / MARK).write_text(self.uri)

    def _unchanged(self, path: str, stamps: dict[str, Any]) -> bool:
        """The copy's file is there, of the size that it was fetched with."""
        place = self.folder / path
        return place.exists() and place.stat().st_size == stamps[path][0]


def mirror_at(folder: Path) -> Mirror:
    """Of a folder that may be a copy."""
    with suppress(OSError):
        return Mirror(folder, (folder / MARK).read_text())
    return Mirror(folder)


def patiently(call: Callable[[], R], waits: Iterable[float] = WAITS) -> R:
    """Call again while the store is away; what is missing is missing.

    Raises:
        OSError, DataError: of the last try.
    """
    for wait in waits:
        try:
            return call()
        except FileNotFoundError:
            raise
        except (OSError, DataError):  # DataError: it could not even be opened, for want of its address
            time.sleep(wait)
    return call()


def check_writable(uri: str) -> None:
    """Write a small file into a folder or bucket and remove it.

    Raises:
        DataError: that does not work; the text has the store's reason.
    """
    probe = f".paramcrop-{uuid.uuid4().hex}"
    try:
        fs, root = open_folder(uri)
        with fs.open_output_stream(f"{root}/{probe}") as sink:
            sink.write(b"")
        fs.delete_file(f"{root}/{probe}")
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{uri} must be there and writable, but: {' '.join(str(error).split())[:300]}") from None


def folders_in(uri: str) -> list[str]:
    """Names of the folders directly below a URI.

    Raises:
        DataError: the store does not answer.
    """
    try:
        fs, root = open_folder(uri)
        found = fs.get_file_info(pa.fs.FileSelector(root, allow_not_found=True))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{uri} must be readable, but: {' '.join(str(error).split())[:300]}") from None
    return sorted(info.base_name for info in found if info.type == pa.fs.FileType.Directory)


def _stamp(info: pa.fs.FileInfo) -> list[int]:
    return [info.size, info.mtime_ns or 0]


def _whole_last(path: str) -> tuple[bool, str]:
    """What says that a folder is complete comes last."""
    return Path(path).name == "meta.json", path


def _exists(fs: pa.fs.FileSystem, path: str) -> bool:
    return bool(fs.get_file_info(pa.fs.FileSelector(path, recursive=True, allow_not_found=True)))
