"""Compare two programs in time slices: while one runs, all processes of the other are stopped.

The speed of a shared machine changes by a third within a minute, so runs one after the other cannot be compared.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SLICE = 3.0  # seconds; Ray Data alone measured far slower in slices than in separate runs, for an unknown reason
LOOK = 0.05  # seconds between two looks
WARM = 20  # steps before the first slice, until the buffers of decoded data are full


class Side(NamedTuple):
    """A running program: its session, which it shares with no other, and its number of finished steps."""

    session: int
    done: Callable[[], int]


def in_slices(start: dict[str, Callable[[], Side]], steps: int) -> dict[str, float]:
    """Start each program, then let them take turns until each has done ``steps`` more steps than one, and end all.

    Returns:
        The mean seconds per step of each, counting only the time in which it ran.

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
    """Run one slice and append the end times of its steps to ``ends`` -> seconds of running time so far.

    Args:
        before: steps done before the first slice. worked: seconds of running time before this slice.
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
        raise RuntimeError(f"{name} has ended before it had done its steps")


def lines_in(file: Path) -> int:
    """The number of steps that a program has recorded."""
    return file.read_text().count("\n") if file.exists() else 0


def send(side: Side, number: signal.Signals) -> None:
    for process in processes(side):
        with suppress(ProcessLookupError):
            os.kill(process, number)


def processes(side: Side) -> list[int]:
    """The live processes of a session, and its first process even before it has created the session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            number = int(folder.name)
            if side.session in (number, os.getsid(number)) and state != "Z":
                found.append(number)
    return found
