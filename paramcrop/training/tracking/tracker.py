"""What a tracker does, and what it is told of a run. A tracker's process imports this, so it imports little."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, NamedTuple


class Facts(NamedTuple):
    """The run that is tracked.

    Attributes:
        name: its folder's name, which ends in its id; the same in every attempt.
        folder: its folder. config: dotted key -> value of its settings.
        step: the last valid step, whose later ones are run again; None: all that is tracked stays valid.
    """

    name: str
    folder: str
    config: Mapping[str, Any]
    step: int | None = 0


class Tracker(typing.Protocol):
    """One tracker of a run. A class of ``services`` takes ``Facts``, and continues what an earlier attempt began."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """The metrics of a step."""
        ...

    def picture(self, step: int, name: str, file: str) -> None:
        """A PNG of the run after ``step`` steps."""
        ...

    def results(self, step: int, values: Mapping[str, float]) -> None:
        """Results of evaluations of the checkpoint after ``step`` steps."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...
