"""Ctrl-C during long work that can end in order: the first asks for that and waits, the second ends at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from paramcrop.errors import Abandoned, ParamCropError

POLL = 0.2  # seconds between two looks; a signal is handled between them
GRACE = 45.0  # seconds to end in order
SETTLE = 10.0  # of these, at most so many after everything is safe: a signal to all processes ends Ray's as well


def interruptible(
    work: Callable[[], None], ask: Callable[[], bool], safe: Callable[[], bool] = lambda: False, grace: float = GRACE
) -> None:
    """Do ``work`` in a thread, because Ray's own handler of Ctrl-C, which kills, is set in the main thread only.

    Args:
        ask: asks the work to end, and returns whether it is worth waiting for that. Called at Ctrl-C.
        safe: whether everything worth keeping is kept, so that the work need not end in order.
        grace: seconds to wait for the work to end.

    Raises:
        KeyboardInterrupt: Ctrl-C, and the work has ended.
        Abandoned: Ctrl-C, and the work has not ended in order, or not in time, or Ctrl-C came again.
        Any exception of the work; after Ctrl-C, a ParamCropError.
    """
    raised, done = list[BaseException](), threading.Event()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)
        finally:
            done.set()

    try:
        threading.Thread(target=run, daemon=True).start()
        while not done.wait(POLL):  # Ctrl-C during Thread.join would make the thread seem to have ended
            pass
    except KeyboardInterrupt:
        try:
            if ask():
                _wait(done, safe, grace)
        except KeyboardInterrupt:
            raise Abandoned from None
        if raised and isinstance(raised[0], ParamCropError):
            raise raised[0] from None
        if raised or not done.is_set():  # what Ray raises when the signal has ended it as well says nothing new
            raise Abandoned from None
        raise
    if raised:
        raise raised[0]


def _wait(done: threading.Event, safe: Callable[[], bool], grace: float) -> None:
    end = time.monotonic() + grace
    while not done.wait(POLL) and time.monotonic() < end:
        if safe():
            done.wait(min(SETTLE, end - time.monotonic()))
            return
