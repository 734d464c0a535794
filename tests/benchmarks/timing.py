"""Measuring two or more ways of doing a thing in one run, taking turns; only their ratios mean something."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch


class Line(NamedTuple):
    """One way: seconds (or whatever ``unit`` says) at the median, and what else was measured of it."""

    name: str
    value: float
    more: dict[str, Any]


class Report(NamedTuple):
    """A table: ``unit`` of the values, whether less is better, and what is to be read from it, a line each."""

    title: str
    unit: str
    lines: list[Line]
    notes: list[str]


def take_turns(ways: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu") -> dict[str, float]:
    """Median seconds of each, after one round that does not count."""
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
    """Wait for what a GPU still does."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_bytes(way: Callable[[], object], device: str = "cpu") -> int:
    """Most bytes of tensors that are alive at once, beyond those that were before."""
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
