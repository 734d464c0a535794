"""Who works on a folder in a bucket: as ``paramcrop.storage.lease``, where files cannot be taken by creating them.

``lease/000003-TOKEN.json`` belongs to the third process that held the folder; the highest number holds it, of equal
ones the first token. A process that wants it writes its file, waits until others that wrote at the same moment can be
seen, and looks; if its write took longer than they wait, it begins again. Ages are by the store's own clock. So two may
hold it only if what is written shows later than the write ends, which the stores of today exclude.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from types import TracebackType
from typing import Any

import pyarrow.fs

from paramcrop.errors import DataError, LeaseError
from paramcrop.storage.files import open_folder
from paramcrop.storage.lease import HEARTBEAT, STALE, has_ended, myself
from paramcrop.storage.mirror import patiently

SETTLE = 1.5  # seconds


class BucketLease:
    """Context manager: holds the folder ``uri``, and lets go of it at the end.

    Args:
        say: told, once, that another machine's holder may be dead and is waited for.

    Raises:
        LeaseError: on entering, if another process holds the folder and lives.
    """

    def __init__(self, uri: str, say: Callable[[str], None] = lambda text: None) -> None:
        self.uri, self.say, self.token = uri, say, uuid.uuid4().hex
        self.place = ""
        self._ended = Event()

    def __enter__(self) -> BucketLease:
        while not self._put_in_time(self._dead_holder()):
            self._let_go()
        time.sleep(SETTLE)
        if (now := newest(self.uri)) != self.place.rpartition("/")[2]:
            self._let_go()
            raise LeaseError(_held(self.uri, now))
        self._remove_others()
        Thread(target=self._keep_beating, daemon=True).start()
        return self

    def _dead_holder(self) -> str:
        """The file of the last one who held the folder, seen to be gone; "": nobody did."""
        holder, told = newest(self.uri), False
        while holder and not self._gone(holder):
            if not told:
                self.say(f"{_held(self.uri, holder)}; waiting up to {STALE:.0f} s to see whether it still lives")
            told, seen = True, _touched(self.uri, holder)
            time.sleep(HEARTBEAT * 1.5)
            if _touched(self.uri, holder) not in (seen, None):
                raise LeaseError(_held(self.uri, holder))
        return holder

    def _put_in_time(self, holder: str) -> bool:
        """Write the file after ``holder``'s; False: another came meanwhile, or may have looked and not seen it."""
        number = int(holder.partition("-")[0]) + 1 if holder else 1
        self.place, looked = f"{self.uri}/lease/{number:06d}-{self.token}.json", time.monotonic()
        if newest(self.uri) != holder:
            return False
        self._beat()
        return time.monotonic() - looked < SETTLE

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._let_go()

    def _gone(self, holder: str) -> bool:
        """Dead, as far as can be seen: a process of this machine that has ended, or one without a heartbeat."""
        if has_ended(_read(self.uri, holder)):
            return True
        touched = _touched(self.uri, holder)
        return touched is None or _now(self.uri, self.token) - touched > STALE

    def _beat(self) -> None:
        fs, path = open_folder(self.place)
        if fs.type_name == "local":
            fs.create_dir(path.rpartition("/")[0])
        with fs.open_output_stream(path) as sink:
            sink.write(json.dumps(myself()).encode())

    def _keep_beating(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            try:
                self._beat()
            except (OSError, DataError):  # the store is away for a moment
                continue
        self._let_go()  # a beat may have come after the end

    def _let_go(self) -> None:
        try:
            fs, path = open_folder(self.place)
            fs.delete_file(path)
        except (OSError, DataError):  # gone, or the store is away: it counts as gone soon
            return

    def _remove_others(self) -> None:
        fs, root = open_folder(self.uri)
        for name in _names(self.uri):
            if name != self.place.rpartition("/")[2]:
                with suppress(FileNotFoundError):  # its owner, who saw that he lost, was quicker
                    fs.delete_file(f"{root}/lease/{name}")


def newest(uri: str) -> str:
    """Name of the file of the process that holds the folder ``uri``, or held it last; "": there is none."""
    names = _names(uri)
    numbers = [name.partition("-")[0] for name in names]
    return min((name for name in names if name.startswith(max(numbers))), default="") if names else ""


def is_newest(place: str) -> bool:
    """Whether the process whose file lies at ``place`` still holds the folder."""
    uri, _, name = place.partition("/lease/")
    return newest(uri) == name


def _names(uri: str) -> list[str]:
    def look() -> list[pyarrow.fs.FileInfo]:
        fs, root = open_folder(uri)
        found: list[pyarrow.fs.FileInfo] = fs.get_file_info(
            pyarrow.fs.FileSelector(f"{root}/lease", allow_not_found=True)
        )
        return found

    found = patiently(look)
    return [info.base_name for info in found if info.base_name[:1].isdecimal()]


def _read(uri: str, name: str) -> dict[str, Any]:
    fs, root = open_folder(uri)
    try:
        with fs.open_input_stream(f"{root}/lease/{name}") as source:
            fields = json.loads(source.read())
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _touched(uri: str, name: str) -> float | None:
    fs, root = open_folder(uri)
    info = fs.get_file_info(f"{root}/lease/{name}")
    return None if info.mtime_ns is None else info.mtime_ns / 1e9


def _now(uri: str, token: str) -> float:
    """The time by the store's clock."""
    fs, root = open_folder(uri)
    path = f"{root}/lease/now-{token}"
    with fs.open_output_stream(path) as sink:
        sink.write(b"")
    info = fs.get_file_info(path)
    fs.delete_file(path)
    assert info.mtime_ns is not None
    return float(info.mtime_ns / 1e9)


def _held(uri: str, name: str) -> str:
    fields = _read(uri, name)
    holder = f"process {fields.get('pid', '?')} on {fields.get('host', '?')}"
    return f"one process at a time may work on {uri}, but {holder} does"
