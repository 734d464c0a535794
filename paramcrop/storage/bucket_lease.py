"""A lease on a folder in a bucket: ``paramcrop.storage.lease`` for stores where creating a file is not exclusive.

``lease/000003-TOKEN.json`` belongs to the third process that held the folder. The highest number is the holder; among
equal numbers, the first token. A process that wants the folder writes its file, waits until files written at the same
moment are visible, and looks whether it is the holder. If its own write took longer than that wait, another process may
have looked too early to see it, so it starts again. Ages are measured with the store's clock. Two processes could hold
the folder only if a file became visible after its write returned, which today's stores rule out.
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
from paramcrop.storage.lease import HEARTBEAT, STALE, has_ended, held_by, this_process, waiting_for
from paramcrop.storage.mirror import retry

LONGEST = 60.0  # seconds that a beat to a store that does not answer may take
SETTLE = 1.5  # seconds after which files that were written at the same moment are all visible


class BucketLease:
    """Context manager that holds the folder ``uri`` and releases it at the end.

    Args:
        say: receives one message if the holder may be dead, so that entering has to wait.

    Raises:
        LeaseError: on entering, if another live process holds the folder.
    """

    def __init__(self, uri: str, say: Callable[[str], None] = lambda text: None) -> None:
        self.uri, self.say, self.token = uri, say, uuid.uuid4().hex
        self.path = ""
        self._ended = Event()
        self._beating = Thread(target=self._keep_beating, daemon=True)

    def __enter__(self) -> BucketLease:
        while not self._write_in_time(self._dead_holder()):
            self._release()
        # Every rival that saw no file of this process wrote its own within SETTLE of looking. After this wait, all such
        # files are visible to all of them, and all agree on the winner.
        time.sleep(SETTLE)
        if (now := newest(self.uri)) != self.path.rpartition("/")[2]:
            self._release()
            raise LeaseError(held_by(self.uri, _read(self.uri, now)))
        self._remove_others()
        self._beating.start()
        return self

    def _dead_holder(self) -> str:
        """The file of the last holder, which is dead; "" if nobody held the folder."""
        holder, announced = newest(self.uri), False
        while holder and not self._is_dead(holder):
            if not announced:
                self.say(waiting_for(self.uri, _read(self.uri, holder)))
            announced, before = True, _touched(self.uri, holder)
            time.sleep(HEARTBEAT * 1.5)
            if _touched(self.uri, holder) not in (before, None):
                raise LeaseError(held_by(self.uri, _read(self.uri, holder)))
        return holder

    def _write_in_time(self, holder: str) -> bool:
        """Write the file that follows ``holder``'s; False if a rival came first or may have missed the file."""
        number = int(holder.partition("-")[0]) + 1 if holder else 1
        self.path, looked = f"{self.uri}/lease/{number:06d}-{self.token}.json", time.monotonic()
        if newest(self.uri) != holder:
            return False
        self._beat()
        return time.monotonic() - looked < SETTLE

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        # A last beat would write the file again, and a process that exits while a thread uses S3 may crash.
        self._beating.join(LONGEST)
        self._release()

    def _is_dead(self, holder: str) -> bool:
        """Whether the holder is a local process that has ended, or any process without a recent heartbeat."""
        if has_ended(_read(self.uri, holder)):
            return True
        touched = _touched(self.uri, holder)
        return touched is None or _now(self.uri, self.token) - touched > STALE

    def _beat(self) -> None:
        fs, path = open_folder(self.path)
        if fs.type_name == "local":
            fs.create_dir(path.rpartition("/")[0])
        with fs.open_output_stream(path) as sink:
            sink.write(json.dumps(this_process()).encode())

    def _keep_beating(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            try:
                self._beat()
            except (OSError, DataError):  # the store is briefly unreachable
                continue

    def _release(self) -> None:
        try:
            fs, path = open_folder(self.path)
            fs.delete_file(path)
        except (OSError, DataError):  # already deleted, or the store is unreachable: without heartbeats it goes stale
            return

    def _remove_others(self) -> None:
        fs, root = open_folder(self.uri)
        for name in _names(self.uri):
            if name != self.path.rpartition("/")[2]:
                with suppress(FileNotFoundError):  # its owner saw that it lost, and deleted the file first
                    fs.delete_file(f"{root}/lease/{name}")


def newest(uri: str) -> str:
    """The name of the lease file of the process that holds ``uri`` or was the last to hold it; "" if there is none."""
    names = _names(uri)
    numbers = [name.partition("-")[0] for name in names]
    return min((name for name in names if name.startswith(max(numbers))), default="") if names else ""


def is_newest(path: str) -> bool:
    """Whether the process whose lease file is at ``path`` still holds the folder."""
    uri, _, name = path.partition("/lease/")
    return newest(uri) == name


def _names(uri: str) -> list[str]:
    def look() -> list[pyarrow.fs.FileInfo]:
        fs, root = open_folder(uri)
        found: list[pyarrow.fs.FileInfo] = fs.get_file_info(
            pyarrow.fs.FileSelector(f"{root}/lease", allow_not_found=True)
        )
        return found

    found = retry(look)
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
    """The time on the store's clock."""
    fs, root = open_folder(uri)
    path = f"{root}/lease/now-{token}"
    with fs.open_output_stream(path) as sink:
        sink.write(b"")
    info = fs.get_file_info(path)
    fs.delete_file(path)
    assert info.mtime_ns is not None
    return float(info.mtime_ns / 1e9)
