"""Pieces of work -> shards: one Ray task each, on any node."""

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

RETRIES = 3  # of a task whose worker or node died
POLL = 0.5  # seconds between two looks at the progress
TELL = 0.25  # seconds between two calls of a task; one for each video cost 1 ms of CPU (measured)

Counts = dict[int, tuple[int, int]]  # piece -> (videos finished, of those rejected)


class Counter:
    """An actor: tasks tell it of their videos, the driver reads it. A second attempt starts from its own count."""

    def __init__(self) -> None:
        self.counts: Counts = {}

    def tell(self, piece: int, done: int, rejected: int) -> None:
        self.counts[piece] = (done, rejected)

    def read(self) -> Counts:
        return self.counts


def make_shards(
    pieces: Iterable[Piece], videos: str, out: str, timeout: float, tell: Callable[[int, int], None]
) -> Iterator[Part]:
    """Each piece's part as it is finished, in any order.

    ``tell`` is called now and then with the videos finished in all and those of them rejected.

    Raises:
        ParamCropError: a task raised it, or died again and again.
    """
    counter = ray.remote(Counter).options(num_cpus=0, max_restarts=-1).remote()
    task = ray.remote(_make_shard).options(num_cpus=1, max_retries=RETRIES)
    waiting, running, counts = iter(pieces), dict[Any, Piece](), Counts()
    most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))  # one at work and one ready, for each CPU
    finished: Counts = {}
    # Nothing is cancelled when the driver stops early: Ray ends a driver's tasks with it, and ray.cancel was seen to
    # abort the driver where a task finished at that moment ("Tried to complete task that was not pending").
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
            tell(sum(done for done, _ in counts.values()), sum(rejected for _, rejected in counts.values()))
            if interrupted.is_set():
                raise KeyboardInterrupt


@contextmanager
def _interrupts() -> Iterator[Event]:
    """Whether there was a Ctrl-C: raised at once, and kept, for some were lost, it seems within a call of Ray."""
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
    told = 0.0

    def tell(done: int, rejected: int) -> None:
        nonlocal told
        if time.monotonic() - told >= TELL:  # the last ones are in the part
            counter.tell.remote(piece.number, done, rejected)
            told = time.monotonic()

    return make_shard(piece, videos, out, timeout, tell)


def _first(pieces: Iterator[Piece], most: int) -> Iterator[Piece]:
    for _, piece in zip(range(most), pieces, strict=False):
        yield piece


def _read(counter: Any, last: Counts) -> Counts:
    """The counter's counts; the last known while it is down: it only serves the display."""
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
            f"a worker must live to write {piece.file}, but {RETRIES + 1} died of it: {reason}; "
            "the same command goes on from there"
        ) from None
    return part
