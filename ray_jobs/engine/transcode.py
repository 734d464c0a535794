"""Write shards: one Ray task for each, on any node."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType
from typing import Any

import ray

from paramcrop.data.prepare.plan import Part, Piece
from paramcrop.data.prepare.transcode import make_shard
from paramcrop.errors import ParamCropError, ResourceError

RETRIES = 3  # retries of a task whose worker or node died
POLL = 0.5  # seconds between two reads of the progress
REPORT = 0.25  # seconds between two progress reports of a task; reporting every video would cost 1 ms of CPU each

Counts = dict[int, tuple[int, int]]  # piece -> (videos finished, of those rejected)


class Counter:
    """An actor that counts videos: tasks report to it, and the driver reads it. A retried task replaces its count."""

    def __init__(self) -> None:
        self.counts: Counts = {}

    def report(self, piece: int, done: int, rejected: int) -> None:
        self.counts[piece] = (done, rejected)

    def read(self) -> Counts:
        return self.counts


def make_shards(
    pieces: Iterable[Piece], videos: str, out: str, timeout: float, report: Callable[[int, int], None]
) -> Iterator[Part]:
    """Yield the part of each piece when it is finished, in any order.

    Args:
        timeout: seconds that a video may take.
        report: called regularly with the number of finished videos and of rejected ones among them.

    Raises:
        ParamCropError: a task raised it, or its process died repeatedly.
    """
    counter = ray.remote(Counter).options(num_cpus=0, max_restarts=-1).remote()
    task = ray.remote(_make_shard).options(num_cpus=1, max_retries=RETRIES)
    waiting, running, counts = iter(pieces), dict[Any, Piece](), Counts()
    most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))  # for each CPU, one running and one queued
    finished: Counts = {}
    # When the driver stops early, it cancels nothing: Ray ends a driver's tasks with it, and ray.cancel has aborted the
    # driver when a task finished at the same moment ("Tried to complete task that was not pending").
    with _interrupts() as interrupted:
        while True:
            for piece in _first(waiting, most - len(running)):
                running[task.remote(piece, videos, out, timeout, counter)] = piece
            if not running:
                return
            ready, _ = ray.wait(list(running), timeout=POLL)
            for ref in ready:
                piece = running.pop(ref)
                part = _result(ref, piece)
                finished[piece.number] = (part.done, len(part.rejected))
                yield part
            counts = _read(counter, counts) | finished
            report(sum(done for done, _ in counts.values()), sum(rejected for _, rejected in counts.values()))
            if interrupted.is_set():
                raise KeyboardInterrupt


@contextmanager
def _interrupts() -> Iterator[Event]:
    """Yield an event that Ctrl-C sets, besides raising at once: the exception can get lost, apparently inside Ray."""
    seen = Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        seen.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def _make_shard(piece: Piece, videos: str, out: str, timeout: float, counter: Any) -> Part:
    reported = 0.0

    def report(done: int, rejected: int) -> None:
        nonlocal reported
        if time.monotonic() - reported >= REPORT:  # the finished part has the final counts
            counter.report.remote(piece.number, done, rejected)
            reported = time.monotonic()

    return make_shard(piece, videos, out, timeout, report)


def _first(pieces: Iterator[Piece], most: int) -> Iterator[Piece]:
    for _, piece in zip(range(most), pieces, strict=False):
        yield piece


def _read(counter: Any, last: Counts) -> Counts:
    """The counter's counts, or the last known ones while it is down; they are only for display."""
    try:
        counts: Counts = ray.get(counter.read.remote(), timeout=10)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
        return last
    return counts


def _result(ref: Any, piece: Piece) -> Part:
    try:
        part: Part = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ParamCropError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ResourceError(
            f"the task that writes {piece.file} died {RETRIES + 1} times: {reason}; the same command resumes from here"
        ) from None
    return part
