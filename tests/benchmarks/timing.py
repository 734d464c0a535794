"""Measure two or more ways of doing the same thing in one run, in turns; only their ratios are meaningful."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch


class Line(NamedTuple):
    """One way: its median, in the ``unit`` of the report, and further measurements."""

    name: str
    value: float
    more: dict[str, Any]


class Report(NamedTuple):
    """A table: its title, the ``unit`` of the values, a line for each way, and notes for the reader."""

    title: str
    unit: str
    lines: list[Line]
    notes: list[str]


def take_turns(ways: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu") -> dict[str, float]:
    """The median seconds of each way, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            settle(device)
            start = time.perf_counter()
            way()
            settle(device)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def settle(device: str) -> None:
    """Wait until the GPU is idle."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_bytes(way: Callable[[], object], device: str = "cpu") -> int:
    """The peak of the bytes in tensors, above those that exist before the call."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = way()
    changes: Any = profile.profiler.kineto_results.events()
    alive = most = 0
    for event in sorted((e for e in changes if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    del kept
    return most
