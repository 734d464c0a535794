"""Progress of work that is counted: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

LINE = 10.0  # seconds between two lines where there is no terminal


class CountProgress:
    """Context manager: ``tell`` it how many videos are finished, of ``total``; an earlier attempt did ``before``."""

    def __init__(self, total: int, before: int, console: Console) -> None:
        self.total, self.before, self.console = total, before, console
        self._start = self._printed = time.monotonic()
        columns = (TextColumn("prepare"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
        self._bar = Progress(*columns, console=console) if console.is_terminal else None
        self._task = self._bar.add_task("", total=total, completed=before, text="") if self._bar else None

    def __enter__(self) -> CountProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def tell(self, done: int, rejected: int) -> None:
        """``done`` and ``rejected`` are of this attempt."""
        now = time.monotonic()
        text = self._text(done, rejected, now - self._start)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.before + done, text=text)
        elif now - self._printed >= LINE:
            self.console.print(f"{self.before + done}/{self.total} videos  {text}", highlight=False)
            self._printed = now

    def _text(self, done: int, rejected: int, seconds: float) -> str:
        told = f"{rejected} rejected"
        if not done:
            return told
        left = (self.total - self.before - done) * seconds / done
        return f"{told}  {done / seconds:.3g} videos/s  {clock(left)} left"


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
