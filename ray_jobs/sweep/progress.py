"""A sweep's progress, read from its trials' records: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from paramcrop.sweeps.record import UNFINISHED, TrialRecord, read_records

POLL = 1.0  # seconds
LINE = 30.0  # seconds between two lines about trials at work, where there is no terminal


class SweepProgress:
    """Context manager: follows the records in ``folder`` until it is left.

    Args:
        todo: trials of this command. at_once: how many run together. quiet: a line at each trial's end, nothing else.
    """

    def __init__(self, folder: Path, todo: int, at_once: int, console: Console, quiet: bool) -> None:
        self.folder, self.todo, self.at_once, self.console, self.quiet = folder, todo, at_once, console, quiet
        self._begun, self._clock, self._ended = time.monotonic(), time.time(), dict[str, TrialRecord]()
        self._done, self._lined = threading.Event(), time.monotonic()
        live = console.is_terminal and not quiet
        self._thread = threading.Thread(target=self._live if live else self._lines, daemon=True)

    def __enter__(self) -> SweepProgress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _records(self) -> list[TrialRecord]:
        """Of trials that were started by this command."""
        return [record for record in read_records(self.folder) if record.started >= self._clock]

    def _live(self) -> None:
        with Live(console=self.console, refresh_per_second=2, transient=True) as live:
            while not self._done.wait(POLL):
                records = self._records()
                self._tell_ended(records, live.console)
                live.update(Group(self._table(records), Text(self.totals())))
        self._tell_ended(self._records(), self.console)

    def _lines(self) -> None:
        ended = False
        while not ended:
            ended = self._done.wait(POLL)
            records = self._records()
            self._tell_ended(records, self.console)
            if not self.quiet and not ended and time.monotonic() - self._lined >= LINE:
                self._lined = time.monotonic()
                for record in records:
                    if record.state in UNFINISHED:
                        told = ", ".join(filter(None, (record.doing, compared(record))))
                        self.console.print(f"{record.label}: {told}", highlight=False, markup=False)

    def _tell_ended(self, records: list[TrialRecord], console: Console) -> None:
        for record in records:
            if record.state not in UNFINISHED and record.id not in self._ended:
                self._ended[record.id] = record
                console.print(f"{line(record)}; {self.totals()}", highlight=False, markup=False)

    def _table(self, records: list[TrialRecord]) -> Table:
        table = Table("trial", "state", "objective", "now", box=None)
        for record in records:
            if record.state in UNFINISHED:
                table.add_row(escape(record.label), record.state, compared(record), escape(record.doing))
        return table

    def totals(self) -> str:
        """Trials ended of all, and the time left by their mean pace."""
        ended = len(self._ended)
        if not ended:
            return f"{ended}/{self.todo} trials"
        seconds = (time.monotonic() - self._begun) / ended * (self.todo - ended)
        return f"{ended}/{self.todo} trials, {seconds / 60:.0f} min left"


def compared(record: TrialRecord) -> str:
    """What it has been compared by so far: "31.2 % at epoch 4"."""
    return "" if record.proxy is None else f"{100 * record.proxy:.1f} % at epoch {record.epoch}"


def line(record: TrialRecord) -> str:
    """How a trial ended."""
    value = "" if record.objective is None else f", objective {100 * record.objective:.1f} %"
    epoch = f", {compared(record)}" if record.state == "pruned" else ""
    why = next((run["error"] for run in record.runs if run["error"]), "; ".join(record.failures[:1]))
    return f"{record.label}: {record.state}{epoch}{value}, {record.seconds:.0f} s{f' ({why})' if why else ''}"
