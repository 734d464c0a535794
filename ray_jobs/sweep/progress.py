"""A sweep's progress, read from the records of its trials."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from paramcrop.storage.mirror import Mirror
from paramcrop.sweeps.objective import Goal
from paramcrop.sweeps.record import UNFINISHED, TrialRecord, fetch_records, read_records
from ray_jobs.terminal import Progress, Standing

POLL, FAR = 1.0, 5.0  # seconds between two updates, from a file system and from a bucket
LINE = 30.0  # seconds between two lines about running trials, without a terminal


def sweep_progress(place: Mirror, todo: int, console: Console, quiet: bool, aims: Sequence[Goal]) -> Progress:
    """The progress of the trials with records in ``place``.

    Args:
        todo: number of trials of this command. quiet: print only one line at the end of each trial.
        aims: the objectives.
    """
    return Progress(
        _Trials(place, todo, aims).look,
        console,
        poll=FAR if place.uri else POLL,
        line=LINE,
        transient=True,
        quiet=quiet,
    )


class _Trials:
    """The trials that this command has started."""

    def __init__(self, place: Mirror, todo: int, aims: Sequence[Goal]) -> None:
        self._place, self._todo, self._aims = place, todo, aims
        self._begun, self._clock, self._ended = time.monotonic(), time.time(), set[str]()

    def look(self) -> Standing:
        fetch_records(self._place)
        records = [record for record in read_records(self._place.folder) if record.started >= self._clock]
        news = tuple(
            f"{line(record, self._aims)}; {self._totals()}" for record in records if self._has_just_ended(record)
        )
        running = [record for record in records if record.state in UNFINISHED]
        return Standing(Group(table(running), Text(self._totals())), tuple(map(doing, running)), news)

    def _has_just_ended(self, record: TrialRecord) -> bool:
        ended = record.state not in UNFINISHED and record.id not in self._ended
        self._ended |= {record.id} if ended else set()
        return ended

    def _totals(self) -> str:
        """The number of ended trials, and the remaining time at their mean pace."""
        ended = len(self._ended)
        if not ended:
            return f"{ended}/{self._todo} trials"
        seconds = (time.monotonic() - self._begun) / ended * (self._todo - ended)
        return f"{ended}/{self._todo} trials, {seconds / 60:.0f} min left"


def table(records: Sequence[TrialRecord]) -> Table:
    """A row for each running trial."""
    found = Table("trial", "state", "objective", "now", box=None)
    for record in records:
        found.add_row(escape(record.name), record.state, compared(record), escape(record.doing))
    return found


def doing(record: TrialRecord) -> str:
    """A trial's current activity."""
    return f"{record.name}: {', '.join(filter(None, (record.doing, compared(record))))}"


def compared(record: TrialRecord) -> str:
    """The value of the last comparison, such as "31.2 % at epoch 4"."""
    return "" if record.proxy is None else f"{100 * record.proxy:.1f} % at epoch {record.epoch}"


def line(record: TrialRecord, aims: Sequence[Goal]) -> str:
    """A line about a trial that has ended."""
    known = [goal.show(v) for goal, v in zip(aims, record.objectives, strict=False) if v is not None]
    value = f", objective {', '.join(known)}" if known else ""
    epoch = f", {compared(record)}" if record.state == "pruned" else ""
    why = next((run["error"] for run in record.runs if run["error"]), "; ".join(record.failures[:1]))
    return f"{record.name}: {record.state}{epoch}{value}, {record.seconds:.0f} s{f' ({why})' if why else ''}"
