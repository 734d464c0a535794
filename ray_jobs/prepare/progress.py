"""The number of prepared videos, and the pace."""

from __future__ import annotations

import time

from ray_jobs.terminal import Standing, bar, clock


class Videos:
    """The finished videos of ``total``; earlier attempts finished ``before`` of them."""

    def __init__(self, total: int, before: int) -> None:
        self._total, self._before, self._start = total, before, time.monotonic()
        self._counts = 0, 0

    def report(self, done: int, rejected: int) -> None:
        """Set the counts of this attempt."""
        self._counts = done, rejected

    def look(self) -> Standing:
        done, rejected = self._counts
        text = f"{rejected} rejected{self._pace(done)}"
        count = self._before + done
        return Standing(bar("prepare", count, self._total, text), (f"{count}/{self._total} videos  {text}",))

    def _pace(self, done: int) -> str:
        if not done:
            return ""
        seconds = time.monotonic() - self._start
        left = (self._total - self._before - done) * seconds / done
        return f"  {done / seconds:.3g} videos/s  {clock(left)} left"
