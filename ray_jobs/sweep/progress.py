"""A sweep's progress, read from its trials' records."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from paramcrop.sweeps.record import UNFINISHED, TrialRecord, read_records
from ray_jobs.progress import Progress, Standing

POLL = 1.0  # seconds
LINE = 30.0  # seconds between two lines about trials at work, where there is no terminal


def sweep_progress(folder: Path, todo: int, console: Console, quiet: bool) -> Progress:
    """Of the trials whose records lie in ``folder``.

    Args:
        todo: trials of this command. quiet: a line at each trial's end, nothing else.
    """
    return Progress(_Trials(folder, todo).look, console, poll=POLL, line=LINE, transient=True, quiet=quiet)


class _Trials:
    """Those that were started by this command."""

    def __init__(self, folder: Path, todo: int) -> None:
        self._folder, self._todo = folder, todo
        self._begun, self._clock, self._ended = time.monotonic(), time.time(), set[str]()

    def look(self) -> Standing:
        records = [record for record in read_records(self._folder) if record.started >= self._clock]
        news = tuple(f"{line(record)}; {self._totals()}" for record in records if self._has_just_ended(record))
        at_work = [record for record in records if record.state in UNFINISHED]
        return Standing(Group(table(at_work), Text(self._totals())), tuple(map(doing, at_work)), news)

    def _has_just_ended(self, record: TrialRecord) -> bool:
        ended = record.state not in UNFINISHED and record.id not in self._ended
        self._ended |= {record.id} if ended else set()
        return ended

    def _totals(self) -> str:
        """Trials ended of all, and the time left by their mean pace."""
        ended = len(self._ended)
        if not ended:
            return f"{ended}/{self._todo} trials"
        seconds = (time.monotonic() - self._begun) / ended * (self._todo - ended)
        return f"{ended}/{self._todo} trials, {seconds / 60:.0f} min left"


def table(records: Sequence[TrialRecord]) -> Table:
    """A line for each trial at work."""
    found = Table("trial", "state", "objective", "now", box=None)
    for record in records:
        found.add_row(escape(record.label), record.state, compared(record), escape(record.doing))
    return found


def doing(record: TrialRecord) -> str:
    """What a trial does now."""
    return f"{record.label}: {', '.join(filter(None, (record.doing, compared(record))))}"


def compared(record: TrialRecord) -> str:
    """What it has been compared by so far: "31.2 % at epoch 4"."""
    return "" if record.proxy is None else f"{100 * record.proxy:.1f} % at epoch {record.epoch}"


def line(record: TrialRecord) -> str:
    """How a trial ended."""
    value = "" if record.objective is None else f", objective {100 * record.objective:.1f} %"
    epoch = f", {compared(record)}" if record.state == "pruned" else ""
    why = next((run["error"] for run in record.runs if run["error"]), "; ".join(record.failures[:1]))
    return f"{record.label}: {record.state}{epoch}{value}, {record.seconds:.0f} s{f' ({why})' if why else ''}"
