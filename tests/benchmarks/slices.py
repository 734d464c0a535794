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

SLICE = 3.0  # seconds; Ray Data alone came out far slower so than run by run; why is not known
LOOK = 0.05
WARM = 20  # steps before the first slice: by then as much is decoded ahead as will be


class Side(NamedTuple):
    """A program that is at work: its session, of its own, and how many steps it has done."""

    session: int
    done: Callable[[], int]


def in_slices(start: dict[str, Callable[[], Side]], steps: int) -> dict[str, float]:
    """Start each, up to its first steps; then take turns until all have ``steps`` more than one, and end all.

    -> of each, the mean seconds of those steps, in which it was at work.

    Raises:
        RuntimeError: a program ended before it had done its steps.
    """
    sides, ends = dict[str, Side](), {name: list[float]() for name in start}
    try:
        for name, begin in start.items():
            sides[name] = begin()
            warm_up(name, sides[name])
            send(sides[name], signal.SIGSTOP)
        worked, before = dict.fromkeys(sides, 0.0), {name: side.done() for name, side in sides.items()}
        while any(len(done) <= steps for done in ends.values()):
            for name, side in sides.items():
                worked[name] = work(name, side, before[name], worked[name], ends[name])
    finally:
        for side in sides.values():
            send(side, signal.SIGKILL)
    return {name: (done[steps] - done[0]) / steps for name, done in ends.items()}


def warm_up(name: str, side: Side) -> None:
    while side.done() < WARM:
        check(name, side)
        time.sleep(LOOK)


def work(name: str, side: Side, before: int, worked: float, ends: list[float]) -> float:
    """One slice -> seconds at work so far; the ends of its steps are added, in the same seconds.

    Args:
        before: steps done before the first slice. worked: seconds at work before this one.
    """
    send(side, signal.SIGCONT)
    start = time.monotonic()
    while (now := time.monotonic() - start) < SLICE:
        time.sleep(LOOK)
        check(name, side)
        ends += [worked + now] * (side.done() - before - len(ends))
    send(side, signal.SIGSTOP)
    return worked + now


def check(name: str, side: Side) -> None:
    if not processes(side):
        raise RuntimeError(f"{name} must be at work for all its steps, but it has ended")


def lines_in(file: Path) -> int:
    """How many steps a program has written down."""
    return file.read_text().count("\n") if file.exists() else 0


def send(side: Side, number: signal.Signals) -> None:
    for process in processes(side):
        with suppress(ProcessLookupError):
            os.kill(process, number)


def processes(side: Side) -> list[int]:
    """Those of a session that have not ended; its first one even before it has made it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            number = int(folder.name)
            if side.session in (number, os.getsid(number)) and state != "Z":
                found.append(number)
    return found
