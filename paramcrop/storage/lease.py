"""A lease on a folder: one process at a time works on it and proves by a heartbeat that it is alive.

``folder/lease/000003.json`` belongs to the third process that held the folder; the highest number is the holder. A
process takes a number by creating its file, which succeeds for only one process. The holder touches its file every few
seconds. Ages are measured with the file system's clock, so the clocks of two machines need not agree.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

from paramcrop.errors import LeaseError

HEARTBEAT = 10.0  # seconds
STALE = 60.0  # seconds without a heartbeat after which a holder on another machine counts as dead


class Lease:
    """Context manager that holds ``folder`` and releases it at the end.

    Args:
        say: receives one message if the holder is on another machine and may be dead, so that entering has to wait.

    Raises:
        LeaseError: on entering, if another live process holds the folder.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self.say = folder / "lease", say
        self.file = self.folder / "none"
        self._ended = Event()

    def __enter__(self) -> Lease:
        announced = False
        # A round ends with the lease, with a LeaseError, or with a changed folder: another process was faster, or the
        # holder that this one waited for has gone. Then look again.
        while True:
            holder = newest_lease(self.folder)
            if holder is None or not _is_alive(holder):
                if self._take(holder):
                    break
            elif is_local(_read(holder)):
                raise LeaseError(held_by(self.folder.parent, _read(holder)))
            else:
                if not announced:
                    self.say(waiting_for(self.folder.parent, _read(holder)))
                announced = True
                self._wait(holder)
        Thread(target=self._beat, daemon=True).start()
        return self

    @property
    def path(self) -> str:
        """The path of the lease's file, for ``is_newest``."""
        return str(self.file)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self.file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: another process already holds the folder
            self.folder.rmdir()

    def _take(self, holder: Path | None) -> bool:
        """Create the file with the next number; False if another process was faster."""
        number = int(holder.stem) + 1 if holder else 1
        self.file = self.folder / f"{number:06d}.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self.file.open("x") as file:
                json.dump(this_process(), file)
        except (FileExistsError, FileNotFoundError):  # another was faster, or released its lease and removed the folder
            return False
        # Numbers start at 1 again once the folder is empty. So if this process paused between looking and creating its
        # file, a live holder may by now have a lower number, and this process has to give way.
        others = [path for path in self.folder.glob("[0-9]*.json") if path != self.file]
        if any(map(_is_alive, others)):
            self.file.unlink(missing_ok=True)
            return False
        for old in others:
            old.unlink(missing_ok=True)
        return True

    def _wait(self, holder: Path) -> None:
        """Wait until ``holder`` is gone or counts as dead; raise LeaseError at its next heartbeat."""
        first = _touched(holder)
        while _is_alive(holder):
            # A local holder at this point: its file was still being written when it was first read.
            if is_local(_read(holder)) or _touched(holder) not in (first, None):
                raise LeaseError(held_by(self.folder.parent, _read(holder)))
            time.sleep(0.5)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            with contextlib.suppress(OSError):  # a full disk, or a store that is briefly unreachable
                os.utime(self.file)


def is_newest(path: str) -> bool:
    """Whether the process whose lease file is at ``path`` still holds the folder."""
    return newest_lease(Path(path).parent) == Path(path)


def is_held(folder: Path) -> bool:
    """Whether a live process works on ``folder``."""
    holder = newest_lease(folder / "lease")
    return holder is not None and _is_alive(holder)


def newest_lease(folder: Path) -> Path | None:
    """The file of the process that holds ``folder`` (a lease folder) or was the last to hold it."""
    return max(folder.glob("[0-9]*.json"), default=None, key=lambda path: int(path.stem))


def this_process() -> dict[str, object]:
    """Fields that together identify this process among all processes of all machines."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid()), "space": _process_space()}


def held_by(folder: object, holder: Mapping[str, object]) -> str:
    """The message of a LeaseError; ``holder`` is the holder's ``this_process``, empty if it could not be read."""
    return f"only one process at a time may work on {folder}, and {_name(holder)} does; wait for it to end or stop it"


def waiting_for(folder: object, holder: Mapping[str, object]) -> str:
    """The message while it is unknown whether ``holder`` is alive."""
    return f"{_name(holder)} may be working on {folder}; waiting up to {STALE:.0f} s for its heartbeat"


def _name(holder: Mapping[str, object]) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"


def _read(lease: Path) -> dict[str, object]:
    try:
        fields = json.loads(lease.read_text())
    except (OSError, ValueError):  # removed meanwhile, or still being written
        return {}
    return fields if isinstance(fields, dict) else {}


def is_local(fields: Mapping[str, object]) -> bool:
    """Whether the process would be visible from this one: the same machine, boot and container."""
    return (fields.get("host"), fields.get("space")) == (socket.gethostname(), _process_space())


def has_ended(fields: Mapping[str, object]) -> bool:
    """Whether the process with these ``this_process`` fields is known to have ended; False if it is not local."""
    if not is_local(fields):
        return False
    born = _born(int(str(fields["pid"])))
    return born is None or born != fields["born"]


def _is_alive(lease: Path) -> bool:
    fields = _read(lease)
    if is_local(fields):  # the process table is certain and answers at once; a heartbeat takes a minute to go stale
        return not has_ended(fields)
    try:
        return _now(lease.parent) - lease.stat().st_mtime < STALE
    except FileNotFoundError:  # released
        return False


def _touched(lease: Path) -> float | None:
    try:
        return lease.stat().st_mtime
    except FileNotFoundError:
        return None


def _now(folder: Path) -> float:
    """The time on the clock of ``folder``'s file system."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        return os.stat(file.name).st_mtime


def _born(pid: int) -> str | None:
    """When a local process started, which tells it from a later process with the same id; None if it does not exist."""
    try:
        if sys.platform == "linux":
            facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return None if facts[0] == "Z" else facts[19]  # Z: a zombie has ended; its parent has not reaped it yet
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        pass
    return "unknown"


def _process_space() -> str:
    """A text that differs between two containers or two boots with the same host name."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""
