"""Progress of a command: a live display on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

POLL = 0.5  # seconds between two looks
LINE = 10.0  # seconds between two lines where there is no terminal


@dataclass(frozen=True)
class Standing:
    """How the work stands.

    Attributes:
        live: what a terminal shows. lines: what is printed elsewhere, now and then, where it has changed.
        news: lines to be printed at once, wherever; each look gives only those that are new.
    """

    live: RenderableType = ""
    lines: tuple[str, ...] = ()
    news: tuple[str, ...] = ()


class Progress:
    """Context manager: looks how the work stands until it is left, and shows it.

    Args:
        look: called in a thread every ``poll`` seconds, and once more at the end.
        line: seconds between two lines where there is no terminal.
        ends: print the first and the last line as well, however soon they come.
        transient: remove the display from the terminal at the end.
        quiet: print the news and nothing else.
    """

    def __init__(
        self,
        look: Callable[[], Standing],
        console: Console,
        *,
        poll: float = POLL,
        line: float = LINE,
        ends: bool = False,
        transient: bool = False,
        quiet: bool = False,
    ) -> None:
        self._look, self._console, self._poll, self._line = look, console, poll, line
        self._ends, self._transient, self._quiet = ends, transient, quiet
        self._done = threading.Event()
        follow = self._draw if console.is_terminal and not quiet else self._print
        self._thread = threading.Thread(target=follow, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _draw(self) -> None:
        with Live(console=self._console, refresh_per_second=4, transient=self._transient) as live:
            for stands, _ in self._looks():
                say(live.console, stands.news)
                live.update(stands.live)

    def _print(self) -> None:
        shown, begun = tuple[str, ...](), time.monotonic()
        printed = begun - self._line if self._ends else begun
        for stands, last in self._looks():
            say(self._console, stands.news)
            due = self._ends if last else time.monotonic() - printed >= self._line
            if due and not self._quiet and stands.lines not in ((), shown):
                say(self._console, stands.lines)
                shown, printed = stands.lines, time.monotonic()

    def _looks(self) -> Iterator[tuple[Standing, bool]]:
        """(how the work stands, whether that is the last look)."""
        yield self._look(), False
        while not self._done.wait(self._poll):
            yield self._look(), False
        yield self._look(), True


def say(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False)


def bar(title: str, done: int, total: int, text: str) -> Table:
    """One line: what is done, a bar, how much of how much, and what more there is to say."""
    table = Table.grid(padding=(0, 1))
    count = Text(f"{done:>{len(str(total))}}/{total}", "progress.download")
    table.add_row(title, ProgressBar(total=total, completed=done, width=40), count, Text(text))
    return table


class Pace:
    """The time left, from the pace since the first count seen."""

    def __init__(self, total: int) -> None:
        self._total, self._first, self._last = total, (-1, 0.0), (-1, "")

    def left(self, done: int) -> str:
        """ "1:05 left", as it was when ``done`` was first seen; empty before there is a pace."""
        if self._first[0] < 0:
            self._first = (done, time.monotonic())
        if done != self._last[0]:
            count, seconds = done - self._first[0], time.monotonic() - self._first[1]
            self._last = done, f"{clock((self._total - done) * seconds / count)} left" if count else ""
        return self._last[1]


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
