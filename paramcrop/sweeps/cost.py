"""What a run has cost: the time of its workers, from its history. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def worker_seconds(history: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], bool]:
    """A run's history -> worker seconds per device, and whether they are complete.

    A start counts from its event to the next event. If the next event is the start of another command, or if there is
    none, the end is unknown and the start does not count.
    """
    total, all_known = dict[str, float](), True
    for i, line in enumerate(history):
        if line["event"] != "workers":
            continue
        after = history[i + 1] if i + 1 < len(history) else None
        if after is None or after["event"] == "running":
            all_known = False
        else:
            total[line["device"]] = total.get(line["device"], 0.0) + (after["time"] - line["time"]) * line["workers"]
    return total, all_known
