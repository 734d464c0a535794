"""Who works on a folder: one process at a time, known to be alive by a heartbeat.

``folder/lease/000003.json`` belongs to the third process that held the folder; the highest number holds it. A number is
taken by creating its file, which succeeds for one process alone. A holder touches its file every few seconds; ages are
read from the file system's clock, so the clocks of two machines need not agree.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

from paramcrop.errors import LeaseError

HEARTBEAT = 10.0  # seconds
STALE = 60.0  # seconds without one, after which a holder on another machine counts as gone


class Lease:
    """Context manager: holds ``folder``, and lets go of it at the end.

    Args:
        say: told, once, that another machine's holder may be dead and is waited for.

    Raises:
        LeaseError: on entering, if another process holds the folder and lives.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self.say = folder / "lease", say
        self.file = self.folder / "none"
        self._ended = Event()

    def __enter__(self) -> Lease:
        told = False
        while True:
            holder = newest_lease(self.folder)
            if holder is None or not _lives(holder):
                if self._take(holder):
                    break
            elif _here(holder):
                raise LeaseError(_held(holder))
            else:
                if not told:
                    self.say(f"{_held(holder)}; waiting up to {STALE:.0f} s to see whether it still lives")
                told = True
                self._wait(holder)
        Thread(target=self._beat, daemon=True).start()
        return self

    @property
    def place(self) -> str:
        """Of its file, for ``is_newest``."""
        return str(self.file)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self.file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another process holds it by now
            self.folder.rmdir()

    def _take(self, holder: Path | None) -> bool:
        """Create the next number's file; False: another process was faster."""
        number = int(holder.stem) + 1 if holder else 1
        self.file = self.folder / f"{number:06d}.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self.file.open("x") as file:
                json.dump(myself(), file)
        except (FileExistsError, FileNotFoundError):  # another was faster, or has let go and taken the folder along
            return False
        others = [path for path in self.folder.glob("[0-9]*.json") if path != self.file]
        if any(map(_lives, others)):  # this process was held up after it had looked, and meanwhile one has come
            self.file.unlink(missing_ok=True)
            return False
        for old in others:
            old.unlink(missing_ok=True)
        return True

    def _wait(self, holder: Path) -> None:
        """Until ``holder`` has gone, or counts as gone; raises LeaseError at its next heartbeat."""
        seen = _touched(holder)
        while _lives(holder):
            # Of this machine after all: it was still being written when it was first read.
            if _here(holder) or _touched(holder) not in (seen, None):
                raise LeaseError(_held(holder))
            time.sleep(0.5)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            with contextlib.suppress(OSError):  # a full disk, or a store that is away for a moment
                os.utime(self.file)


def is_newest(place: str) -> bool:
    """Whether the process whose file lies at ``place`` still holds the folder."""
    return newest_lease(Path(place).parent) == Path(place)


def is_held(folder: Path) -> bool:
    """Whether a process that lives works on ``folder``."""
    holder = newest_lease(folder / "lease")
    return holder is not None and _lives(holder)


def newest_lease(folder: Path) -> Path | None:
    """The file of the process that holds ``folder`` (a lease folder), or held it last."""
    return max(folder.glob("[0-9]*.json"), default=None, key=lambda path: int(path.stem))


def myself() -> dict[str, object]:
    """What tells this process from all others."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid()), "space": _process_space()}


def _read(lease: Path) -> dict[str, object]:
    try:
        fields = json.loads(lease.read_text())
    except (OSError, ValueError):  # gone meanwhile, or still being written
        return {}
    return fields if isinstance(fields, dict) else {}


def _here(lease: Path) -> bool:
    """Its holder's process, if it lives, can be seen from this one."""
    return _of_here(_read(lease))


def _of_here(fields: dict[str, object]) -> bool:
    return (fields.get("host"), fields.get("space")) == (socket.gethostname(), _process_space())


def has_ended(fields: dict[str, object]) -> bool:
    """Whether a process, as ``myself`` told it, is seen from here to have ended; False: it lives or is elsewhere."""
    if not _of_here(fields):
        return False
    born = _born(int(str(fields["pid"])))
    return born is None or born != fields["born"]


def _lives(lease: Path) -> bool:
    fields = _read(lease)
    if _of_here(fields):
        return not has_ended(fields)
    try:
        return _now(lease.parent) - lease.stat().st_mtime < STALE
    except FileNotFoundError:  # it has let go
        return False


def _touched(lease: Path) -> float | None:
    try:
        return lease.stat().st_mtime
    except FileNotFoundError:
        return None


def _now(folder: Path) -> float:
    """The time by the clock of ``folder``'s file system."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        return os.stat(file.name).st_mtime


def _born(pid: int) -> str | None:
    """When a process of this machine started, so that its number taken again is another one; None: it is not there."""
    try:
        if sys.platform == "linux":
            facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return None if facts[0] == "Z" else facts[19]  # Z: it has ended, its parent has not noticed
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        pass
    return "unknown"


def _process_space() -> str:
    """What tells apart two containers or two boots of one host name."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _held(lease: Path) -> str:
    fields = _read(lease)
    holder = f"process {fields.get('pid', '?')} on {fields.get('host', '?')}"
    return f"one process at a time may work on {lease.parent.parent}, but {holder} does"
