"""Where a run's metrics, settings, pictures and results go besides its own files: ``run.trackers``.

A tracker may fail or hang, for its network or its version: that costs the run nothing. TensorBoard, which only writes
a file, is written in this process (``board``); each other tracker lives in a process of its own (``guard``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from paramcrop.errors import ConfigError
from paramcrop.training.tracking.guard import Guarded
from paramcrop.training.tracking.tracker import Facts, Tracker


class Here:
    """A tracker of this process; after its first error it is left alone."""

    def __init__(self, name: str, make: Callable[[], Tracker]) -> None:
        self.name, self.problem, self.left_out = name, "", 0
        self._tracker: Tracker | None = None
        try:
            self._tracker = make()
        except OSError as error:
            self._failed(error)

    def send(self, method: str, *arguments: Any) -> None:
        if self._tracker is not None:
            try:
                getattr(self._tracker, method)(*arguments)
            except OSError as error:
                self._failed(error)

    def close(self) -> None:
        self.send("close")

    def _failed(self, error: OSError) -> None:
        self._tracker, self.problem = None, error.strerror or str(error)


class Trackers:
    """All trackers of a run. Nothing here raises an error; only ``close`` waits, at most a minute for each tracker.

    Args:
        names: of ``run.trackers``. facts: the run.
    """

    def __init__(self, names: Sequence[str], facts: Facts) -> None:
        self._all: list[Here | Guarded] = [
            Here(name, lambda: make_board(facts)) if name == "tensorboard" else Guarded(name, facts) for name in names
        ]
        self._told = set[tuple[str, str]]()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._send("metrics", step, dict(values))

    def picture(self, step: int, name: str, file: Path) -> None:
        self._send("picture", step, name, str(file))

    def results(self, step: int, values: Mapping[str, float]) -> None:
        self._send("results", step, dict(values))

    def close(self) -> None:
        for tracker in self._all:
            tracker.close()

    def news(self) -> Iterator[str]:
        """A line for each tracker that has failed, or has missed its first call, since the last call of this."""
        for tracker in self._all:
            failed = f"has failed, and the run goes on without it: {tracker.problem}" if tracker.problem else ""
            slow = "is too slow: it misses some of what the run's own files have" if tracker.left_out else ""
            for key, what in (("failed", failed), ("slow", slow)):
                if what and (tracker.name, key) not in self._told:
                    self._told.add((tracker.name, key))
                    yield f"the tracker {tracker.name} {what}"

    def _send(self, method: str, *arguments: Any) -> None:
        for tracker in self._all:
            tracker.send(method, *arguments)


def make_board(facts: Facts) -> Tracker:
    from paramcrop.training.tracking.board import Board  # imports torch, which a finished run does not wait for

    return Board(facts)


def check_trackers(names: Sequence[str]) -> None:
    """Raises:
    ConfigError: the package of a tracker is not installed.
    """
    for name in names:
        if name != "tensorboard" and find_spec(name) is None:
            raise ConfigError(f"run.trackers={name} needs the package {name}: pip install {name}")
