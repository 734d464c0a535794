"""What a command shows: its progress, live on a terminal and as a line at intervals elsewhere, and tables of any width.

Logs have 80 columns: there, rows keep their names, and cells wrap.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

POLL = 0.5  # seconds between two updates
LINE = 10.0  # seconds between two lines without a terminal


@dataclass(frozen=True)
class Standing:
    """The current state of the work.

    Attributes:
        live: the display of a terminal.
        lines: what is printed at intervals without a terminal, each line once.
        news: lines to print at once in either case; each look returns only new ones.
    """

    live: RenderableType = ""
    lines: tuple[str, ...] = ()
    news: tuple[str, ...] = ()


class Progress:
    """Context manager that shows the state of the work until it is left.

    Args:
        look: returns the state; called in a thread every ``poll`` seconds, and once more at the end.
        line: seconds between two lines without a terminal.
        ends: always print the first and the last line, even within ``line`` seconds.
        transient: remove the display from the terminal at the end.
        quiet: print only the news.
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
            for standing, _ in self._looks():
                say(live.console, standing.news)
                live.update(standing.live)

    def _print(self) -> None:
        shown, begun = set[str](), time.monotonic()
        printed = begun - self._line if self._ends else begun
        for standing, last in self._looks():
            say(self._console, standing.news)
            due = self._ends if last else time.monotonic() - printed >= self._line
            new = [line for line in standing.lines if line not in shown]  # one of several may wait, and say the same
            if due and not self._quiet and new:
                say(self._console, new)
                shown, printed = shown | set(new), time.monotonic()

    def _looks(self) -> Iterator[tuple[Standing, bool]]:
        """Yield (state, whether it is the last one)."""
        yield self._look(), False
        while not self._done.wait(self._poll):
            yield self._look(), False
        yield self._look(), True


def say(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False)


def bar(title: str, done: int, total: int, text: str) -> Table:
    """One line: a title, a bar, the count of the total, and further text."""
    table = Table.grid(padding=(0, 1))
    count = Text(f"{done:>{len(str(total))}}/{total}", "progress.download")
    table.add_row(title, ProgressBar(total=total, completed=done, width=40), count, Text(text))
    return table


class Pace:
    """The remaining time, estimated from the pace since the first count."""

    def __init__(self, total: int) -> None:
        self._total, self._first, self._last = total, (-1, 0.0), (-1, "")

    def left(self, done: int) -> str:
        """ "1:05 left", computed when ``done`` last changed; empty while there is no pace."""
        if self._first[0] < 0 or done < self._last[0]:  # the first count, or workers went back to a checkpoint
            self._first = (done, time.monotonic())
        if done != self._last[0]:
            count, seconds = done - self._first[0], time.monotonic() - self._first[1]
            self._last = done, f"{clock((self._total - done) * seconds / count)} left" if count else ""
        return self._last[1]


def clock(seconds: float) -> str:
    """Minutes and seconds, and hours if there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


NAME = 20  # characters that the names of rows keep at least, if they are as long


def make_table(title: str, lines: Sequence[Sequence[str]]) -> Group:
    """A table of a line of heads and further lines, below its title; the first cell of each line is its name."""
    table = Table()
    longest = max(len(line[0]) for line in lines)
    table.add_column(escape(lines[0][0]), overflow="fold", min_width=min(longest, NAME))
    for head in lines[0][1:]:
        table.add_column(escape(head), justify="right", overflow="fold")
    for line in lines[1:]:
        table.add_row(*map(escape, line))
    return Group(Text(title, style="italic"), table)  # a table's own title would break at the table's width
