"""Loss, throughput and waiting time, since the last line of metrics and since the last checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Meter:
    """Counts steps of ``clips`` views each (over all workers) and the time spent waiting for data."""

    def __init__(self, clips: int) -> None:
        self.clips = clips
        self._line, self._checkpoint = _Span(), _Span()
        self._unread: list[Tensor] = []

    def timed(self, batches: Iterable[T], steps: int) -> Iterator[T]:
        """Yield exactly ``steps`` batches and measure the wait for each.

        Raises:
            RuntimeError: there were fewer batches.
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

    def add(self, loss: Tensor) -> None:
        """Count a step and its loss; the value is read later, because reading it would wait for a GPU."""
        self._unread.append(loss)
        for span in (self._line, self._checkpoint):
            span.steps += 1

    def leave_out(self, seconds: float) -> None:
        """Do not count ``seconds`` in which something else was computed, such as a probe."""
        for span in (self._line, self._checkpoint):
            span.start += seconds

    def _read_losses(self) -> None:
        for loss in torch.stack(self._unread).tolist() if self._unread else ():
            for span in (self._line, self._checkpoint):
                span.losses += 1
                span.loss += loss
        self._unread.clear()

    def read(self) -> dict[str, float]:
        """Means since the last call; ``data_wait`` is the fraction of time spent waiting for data, in [0, 1]."""
        self._read_losses()
        span, self._line = self._line, _Span()
        return span.means(self.clips)

    def read_checkpoint(self) -> dict[str, float]:
        """The same, since the last call of this method."""
        self._read_losses()
        span, self._checkpoint = self._checkpoint, _Span()
        return span.means(self.clips)

    def state(self) -> dict[str, float]:
        """The part of the next line's mean loss that a resumed run needs."""
        self._read_losses()
        return {"losses": self._line.losses, "loss": self._line.loss}

    def load_state(self, state: dict[str, float]) -> None:
        self._line.losses, self._line.loss = int(state["losses"]), state["loss"]


class _Span:
    def __init__(self) -> None:
        self.start, self.steps, self.waited = time.perf_counter(), 0, 0.0
        self.losses, self.loss = 0, 0.0  # not ``steps``: a resumed run has losses of steps that it did not time

    def means(self, clips: int) -> dict[str, float]:
        seconds = time.perf_counter() - self.start
        return {
            "loss": self.loss / max(self.losses, 1),
            "clips_per_s": clips * self.steps / seconds,
            "data_wait": self.waited / seconds,
        }
