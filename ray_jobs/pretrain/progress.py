"""A run's progress, read from its metrics."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from rich.console import Console

from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import read_metrics
from ray_jobs.progress import Pace, Progress, Standing, bar

WARNINGS = "warnings.jsonl"
FETCH, LIST = 5.0, 60.0  # seconds between two fetches from a bucket: of metrics, of checkpoints


def run_progress(place: Mirror, total: int, console: Console) -> Progress:
    """The progress of the run at ``place``, which takes ``total`` steps."""
    return Progress(_Run(place, total).look, console, ends=True)


class _Run:
    def __init__(self, place: Mirror, total: int) -> None:
        self._place, self._total, self._pace, self._fetched = place, total, Pace(total), 0.0
        self._starts = len(self._workers()) + 1  # the first start of the workers is not news
        self._page = _Page(place)
        self._warned = len(read_lines(place.folder / WARNINGS))

    def look(self) -> Standing:
        self._fetch()
        news, metrics = (*self._restarts(), *self._warnings()), read_metrics(self._place.folder)
        if not metrics:
            return Standing(bar("starting", 0, self._total, "workers and data"), news=news)
        step = metrics[-1]["step"]
        news += tuple(self._page.refresh())
        text = f"{summary(metrics[-1])}  {self._pace.left(step)}"
        return Standing(bar("pretrain", step, self._total, text), (f"step {step}/{self._total}  {text}",), news)

    def _fetch(self) -> None:
        if self._place.uri and time.monotonic() - self._fetched > FETCH:
            self._fetched = time.monotonic()
            with suppress(OSError):
                self._place.fetch("metrics.jsonl", "history.jsonl", WARNINGS, waits=())

    def _restarts(self) -> list[str]:
        """A line for each new restart of the workers."""
        starts = self._workers()
        new, self._starts = starts[self._starts :], max(self._starts, len(starts))
        return [restart(line) for line in new]

    def _warnings(self) -> list[str]:
        """New warnings of the run."""
        lines = read_lines(self._place.folder / WARNINGS)
        new, self._warned = lines[self._warned :], len(lines)
        return [f"warning: {line['text']}" for line in new]

    def _workers(self) -> list[dict[str, Any]]:
        return [line for line in read_lines(self._place.folder / "history.jsonl") if line["event"] == "workers"]


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


def restart(line: dict[str, Any]) -> str:
    skipped = "".join(f"; skipped a damaged checkpoint: {p}" for p in line.get("passed_over", []))
    return f"workers restarted from step {line['step']}{skipped}"


def summary(metrics: dict[str, Any]) -> str:
    rank = f"rank {metrics['rank']:.0f}  " if metrics.get("rank") is not None else ""
    return (
        f"loss {metrics['loss']:.3f}  {rank}distance {metrics['crop_distance']:.2f}  IoU {metrics['crop_iou']:.2f}  "
        f"{metrics['clips_per_s']:.3g} clips/s  waiting for data {metrics['data_wait']:.0%}"
    )
