"""A tracker in a process of its own: what it fails at, or hangs in, never reaches the run."""

from __future__ import annotations

import time
from queue import Empty, Full, Queue
from threading import Thread
from typing import TYPE_CHECKING, Any

from paramcrop.data.killable import Killable, Words
from paramcrop.errors import ParamCropError

if TYPE_CHECKING:
    from paramcrop.training.tracking.tracker import Facts, Tracker

WAITING = 1000  # calls that may wait for a slow tracker; further ones are left out
TIMEOUT = 120.0  # seconds that a call may take, the first with the start of the tracker
PATIENCE = 10.0  # seconds that ``close`` waits while no call ends
STARTING = 30.0  # the same before the first one ends: a tracker has much to import
LONGEST = 60.0  # seconds that it waits at all
POLL = 0.1  # seconds between two looks whether there is a call, or no more will come
CLOSE = "close"

_opened: dict[str, Tracker] = {}  # of the child process


def deliver(name: str, facts: Facts, method: str, arguments: tuple[Any, ...]) -> None:
    """In the child: call a method of the tracker ``name``, which the first call makes."""
    from paramcrop.training.tracking.services import SERVICES

    try:
        if name not in _opened:
            _opened[name] = SERVICES[name](facts)
        getattr(_opened[name], method)(*arguments)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise ParamCropError(f"{type(error).__name__}: {reason}") from None


class Guarded:
    """Calls a tracker from a thread, in order, in a child process that is killed if a call takes too long.

    Attributes:
        problem: why the tracker is not called any more; empty: it is.
        left_out: calls that found no place in the queue.
    """

    def __init__(self, name: str, facts: Facts, timeout: float = TIMEOUT) -> None:
        self.name, self.problem, self.left_out, self._closing = name, "", 0, False
        self._facts, self._calls, self._ended = facts, Queue[tuple[str, tuple[Any, ...]]](WAITING), 0
        self._child = Killable(deliver, timeout, Words("a call", "its process"))
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def send(self, method: str, *arguments: Any) -> None:
        """Queue a call of the tracker."""
        if not self.problem:
            try:
                self._calls.put_nowait((method, arguments))
            except Full:
                self.left_out += 1

    def close(self) -> None:
        """Let the tracker write what is left, as long as it is at work.

        One that hangs is left to its thread, which ends its process in time; both end with this process.
        """
        self._closing = True
        start = moved = time.monotonic()
        ended = self._ended
        while self._thread.is_alive() and time.monotonic() - start < LONGEST:
            if time.monotonic() - moved > (PATIENCE if self._ended else STARTING):
                break
            self._thread.join(0.05)
            if self._ended != ended:
                ended, moved = self._ended, time.monotonic()
        if self._thread.is_alive() and not self.problem:
            self.problem = f"it did not end within {time.monotonic() - start:.0f} s"

    def _work(self) -> None:
        method = ""
        while method != CLOSE and not self.problem:
            try:
                method, arguments = self._calls.get(timeout=POLL)
            except Empty:
                if not self._closing:
                    continue
                method, arguments = CLOSE, ()
            try:
                self._child(self.name, self._facts, method, arguments)
            except ParamCropError as error:
                self.problem = self.problem or str(error)
            except OSError as error:  # the child cannot be started
                self.problem = self.problem or error.strerror or str(error)
            self._ended += 1
        self._child.close()
