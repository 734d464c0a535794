"""A run's progress, read from its metrics."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from rich.console import Console

from paramcrop.storage.jsonl import last_line, read_lines
from paramcrop.storage.mirror import Mirror
from ray_jobs.terminal import Pace, Progress, Standing, bar

WARNINGS = "warnings.jsonl"
FETCH, LIST = 5.0, 60.0  # seconds between two fetches from a bucket: of metrics, of checkpoints


def run_progress(attempt: Attempt, total: int, console: Console) -> Progress:
    """The progress of a run of ``total`` steps in this attempt."""
    return Progress(_Run(attempt, total).look, console, ends=True)


class Attempt:
    """What the workers of this command have written. Until they start, the files hold lines of earlier attempts.

    Those may be of later steps than the checkpoint that the run resumes from; the workers remove them first.
    """

    def __init__(self, place: Mirror) -> None:
        self.place = place
        self._before = len(self._workers())

    def starts(self) -> list[dict[str, Any]]:
        """A line for each start of the workers."""
        return self._workers()[self._before :]

    def latest(self) -> dict[str, Any] | None:
        """The last metrics that these workers have logged; None if there are none."""
        starts = self.starts()
        line = last_line(self.place.folder / "metrics.jsonl") if starts else None
        return line if line is not None and line["step"] > starts[0]["step"] else None

    def saved(self) -> bool:
        """Whether these workers have saved a checkpoint within an epoch."""
        if self.place.uri:
            with suppress(OSError):
                self.place.fetch("checkpoints/", light=True, waits=())
        found = (self.place.folder / "checkpoints").glob("epoch=*-step=*/meta.json")
        begun = max((start["step"] for start in self.starts()), default=0)
        return any(int(file.parent.name.rpartition("=")[2]) > begun for file in found)

    def _workers(self) -> list[dict[str, Any]]:
        return [line for line in read_lines(self.place.folder / "history.jsonl") if line["event"] == "workers"]


class _Run:
    def __init__(self, attempt: Attempt, total: int) -> None:
        place = attempt.place
        self._attempt, self._place, self._total, self._pace, self._fetched = attempt, place, total, Pace(total), 0.0
        self._starts = 1  # the first start of the workers is not news
        self._page = _Page(place)
        self._warned = len(read_lines(place.folder / WARNINGS))

    def look(self) -> Standing:
        self._fetch()
        news = (*self._restarts(), *self._warnings())
        latest = self._attempt.latest()
        if latest is None:
            return Standing(bar("starting", 0, self._total, "workers and data"), news=news)
        news += tuple(self._page.refresh())
        step = latest["step"]
        text = f"{summary(latest)}  {self._pace.left(step)}"
        return Standing(bar("pretrain", step, self._total, text), (f"step {step}/{self._total}  {text}",), news)

    def _fetch(self) -> None:
        if self._place.uri and time.monotonic() - self._fetched > FETCH:
            self._fetched = time.monotonic()
            with suppress(OSError):
                self._place.fetch("metrics.jsonl", "history.jsonl", WARNINGS, waits=())

    def _restarts(self) -> list[str]:
        """A line for each new restart of the workers."""
        starts = self._attempt.starts()
        new, before = starts[self._starts :], starts[self._starts - 1 :]
        self._starts = max(self._starts, len(starts))
        return [restart(line, last.get("workers")) for last, line in zip(before, new, strict=False)]

    def _warnings(self) -> list[str]:
        """New warnings of the run."""
        lines = read_lines(self._place.folder / WARNINGS)
        new, self._warned = lines[self._warned :], len(lines)
        return [f"warning: {line['text']}" for line in new]


class _Page:
    """The run's page, written again after each checkpoint, in this process and not in a worker."""

    def __init__(self, place: Mirror) -> None:
        self._place, self._fetched = place, time.monotonic()
        self._shown = self._newest()

    def refresh(self) -> list[str]:
        """Write the page if there is a new checkpoint -> a line if that has failed."""
        if self._place.uri and time.monotonic() - self._fetched > LIST:
            self._fetched = time.monotonic()
            with suppress(OSError):
                self._place.fetch("checkpoints/", "crops/", "failures.jsonl", light=True, waits=())
        if (newest := self._newest()) == self._shown:
            return []
        self._shown = newest
        from paramcrop.report.run_page import refresh_page  # imports matplotlib

        return refresh_page(self._place)

    def _newest(self) -> str:
        found = (self._place.folder / "checkpoints").glob("*/meta.json")
        return max((path.parent.name for path in found), default="")


def restart(line: dict[str, Any], before: int | None) -> str:
    """The text about a restart, after a start of so many workers."""
    now = line.get("workers")
    number = f", {now} instead of {before}" if now != before else ""
    skipped = "".join(f"; skipped a damaged checkpoint: {p}" for p in line.get("passed_over", []))
    return f"workers restarted from step {line['step']}{number}{skipped}"


def summary(metrics: dict[str, Any]) -> str:
    rank = f"rank {metrics['rank']:.0f}  " if metrics.get("rank") is not None else ""
    return (
        f"loss {metrics['loss']:.3f}  {rank}distance {metrics['crop_distance']:.2f}  IoU {metrics['crop_iou']:.2f}  "
        f"{metrics['clips_per_s']:.3g} clips/s  waiting for data {metrics['data_wait']:.0%}"
    )
