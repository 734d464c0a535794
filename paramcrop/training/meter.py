"""Loss, throughput and waiting time, between two lines of metrics and between two checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Meter:
    """Counts steps of ``clips`` views each (over all workers) and the time spent waiting for their data."""

    def __init__(self, clips: int) -> None:
        self.clips = clips
        self._line, self._checkpoint = _Span(), _Span()

    def timed(self, batches: Iterable[T], steps: int) -> Iterator[T]:
        """Exactly ``steps`` batches, the wait for each counted.

        Raises:
            RuntimeError: the loader ended early: our own promise, whatever the loader did.
        """
        iterator, count = iter(batches), 0
        while count < steps:
            start = time.perf_counter()
            batch = next(iterator, None)
            if batch is None:
                raise RuntimeError(f"an epoch must have {steps} steps, but its data ended after {count}")
            for span in (self._line, self._checkpoint):
                span.waited += time.perf_counter() - start
            yield batch
            count += 1

    def add(self, loss: float) -> None:
        for span in (self._line, self._checkpoint):
            span.steps += 1
            span.losses += 1
            span.loss += loss

    def read(self) -> dict[str, float]:
        """Means since the last call; ``data_wait`` is a share of the time, in [0, 1]."""
        span, self._line = self._line, _Span()
        return span.means(self.clips)

    def read_checkpoint(self) -> dict[str, float]:
        """The same since the last checkpoint."""
        span, self._checkpoint = self._checkpoint, _Span()
        return span.means(self.clips)

    def state(self) -> dict[str, float]:
        """What the next line's mean loss still needs of the steps before it."""
        return {"losses": self._line.losses, "loss": self._line.loss}

    def load_state(self, state: dict[str, float]) -> None:
        self._line.losses, self._line.loss = int(state["losses"]), state["loss"]


class _Span:
    def __init__(self) -> None:
        self.start, self.steps, self.waited = time.perf_counter(), 0, 0.0
        self.losses, self.loss = 0, 0.0  # apart from steps: a resumed run has losses of steps it did not time

    def means(self, clips: int) -> dict[str, float]:
        seconds = time.perf_counter() - self.start
        return {
            "loss": self.loss / max(self.losses, 1),
            "clips_per_s": clips * self.steps / seconds,
            "data_wait": self.waited / seconds,
        }
