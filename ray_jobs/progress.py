"""A run's progress, read from the metrics it writes: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import read_metrics

POLL = 0.5  # seconds
FETCH = 5.0  # seconds between two looks into a bucket
LINE = 10.0  # seconds between two lines where there is no terminal


class RunProgress:
    """Context manager: follows the metrics of the run at ``place`` until it is left."""

    def __init__(self, place: Mirror, total: int, console: Console) -> None:
        self.place, self.folder, self.total, self.console = place, place.folder, total, console
        self._fetched = 0.0
        self._done = threading.Event()
        self._told = len(self._starts()) + 1  # the first start of its workers needs no word
        follow = self._bar if console.is_terminal else self._lines
        self._thread = threading.Thread(target=follow, daemon=True)

    def __enter__(self) -> RunProgress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _bar(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task("starting", total=self.total, text="workers and data are coming up")
            pace = _Pace(self.total)
            while not self._done.wait(POLL):
                self._tell(progress.console)
                last = self._last()
                if last:
                    text = f"{summary(last)}  {pace.left(last['step'])}"
                    progress.update(task, completed=last["step"], description="pretrain", text=text)
            last = self._last()
            if last:
                progress.update(task, completed=last["step"], description="pretrain", text=summary(last))

    def _lines(self) -> None:
        pace, printed, shown = _Pace(self.total), 0.0, 0
        while True:
            ended = self._done.wait(POLL)
            self._tell(self.console)
            last = self._last()
            if last and last["step"] != shown and (ended or time.monotonic() - printed >= LINE):
                left = pace.left(last["step"])
                self.console.print(f"step {last['step']}/{self.total}  {summary(last)}  {left}", highlight=False)
                printed, shown = time.monotonic(), last["step"]
            if ended:
                return

    def _tell(self, console: Console) -> None:
        """Say when workers that died have been started again."""
        starts = self._starts()
        for line in starts[self._told :]:
            passed_over = "".join(f"; passed over, because it is not whole: {p}" for p in line.get("passed_over", []))
            console.print(f"workers were started again, from step {line['step']}{passed_over}", highlight=False)
        self._told = max(self._told, len(starts))

    def _starts(self) -> list[dict[str, Any]]:
        return [line for line in read_lines(self.folder / "history.jsonl") if line["event"] == "workers"]

    def _last(self) -> dict[str, Any] | None:
        if self.place.uri and time.monotonic() - self._fetched > FETCH:
            self._fetched = time.monotonic()
            with suppress(OSError):
                self.place.fetch("metrics.jsonl", "history.jsonl", waits=())
        lines = read_metrics(self.folder)
        return lines[-1] if lines else None


def summary(metrics: dict[str, Any]) -> str:
    return (
        f"loss {metrics['loss']:.3f}  distance {metrics['crop_distance']:.2f}  IoU {metrics['crop_iou']:.2f}  "
        f"{metrics['clips_per_s']:.3g} clips/s  waiting for data {metrics['data_wait']:.0%}"
    )


class _Pace:
    """Time left, from the pace since the first step seen."""

    def __init__(self, total: int) -> None:
        self.total, self.first = total, (-1, 0.0)

    def left(self, step: int) -> str:
        if self.first[0] < 0:
            self.first = (step, time.monotonic())
        steps, seconds = step - self.first[0], time.monotonic() - self.first[1]
        if not steps:
            return ""
        minutes, rest = divmod(round((self.total - step) * seconds / steps), 60)
        return f"{minutes}:{rest:02d} left"
