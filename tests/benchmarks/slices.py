"""Two programs that share a machine slice by slice: one is at work, all processes of the other are stopped.

A shared machine changes by a third within a minute, so programs that run one after the other cannot be compared.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SLICE = 3.0  # seconds; a stopped Ray is not missed for as long
LOOK = 0.05


class Side(NamedTuple):
    """A program that is at work: its session, of its own, and how many steps it has done."""

    session: int
    done: Callable[[], int]


def in_slices(start: dict[str, Callable[[], Side]], steps: int) -> dict[str, list[float]]:
    """Start each, up to its first step; then take turns until all have ``steps`` more, and end all.

    -> of each, the seconds it was at work when each of those steps was done, from its first one on.

    Raises:
        RuntimeError: a program ended before it had done its steps.
    """
    sides, seconds = dict[str, Side](), {name: [0.0] for name in start}
    try:
        for name, begin in start.items():
            sides[name] = begin()
            wait_for_first(name, sides[name])
            send(sides[name], signal.SIGSTOP)
        worked = dict.fromkeys(sides, 0.0)
        while any(len(seconds[name]) <= steps for name in sides):
            for name, side in sides.items():
                worked[name] = work(name, side, worked[name], seconds[name])
    finally:
        for side in sides.values():
            send(side, signal.SIGKILL)
    return {name: taken[: steps + 1] for name, taken in seconds.items()}


def wait_for_first(name: str, side: Side) -> None:
    while not side.done():
        check(name, side)
        time.sleep(LOOK)


def work(name: str, side: Side, before: float, seconds: list[float]) -> float:
    """One slice -> seconds at work so far; the steps done in it are added to ``seconds``."""
    send(side, signal.SIGCONT)
    start = time.monotonic()
    while (now := time.monotonic() - start) < SLICE:
        time.sleep(LOOK)
        check(name, side)
        seconds += [before + now] * (side.done() - len(seconds))
    send(side, signal.SIGSTOP)
    return before + now


def check(name: str, side: Side) -> None:
    if not processes(side):
        raise RuntimeError(f"{name} must be at work for all its steps, but it has ended")


def send(side: Side, number: signal.Signals) -> None:
    for process in processes(side):
        with suppress(ProcessLookupError):
            os.kill(process, number)


def processes(side: Side) -> list[int]:
    """Those of a session that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if os.getsid(int(folder.name)) == side.session and state != "Z":
                found.append(int(folder.name))
    return found
