"""How long a sweep takes, from runs and evaluations of the same kind that have finished on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import yaml

from paramcrop.settings.config import Config
from paramcrop.settings.identity import flatten, recorded
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.results import read_result
from paramcrop.storage.runs import defaults, read_metrics

COSTLY = (  # settings, and sections of them, on which the time of a step depends
    *("method", "backbone", "projector", "moco", "mean_teacher", "data.clip_frames", "data.clip_size"),
    *("data.random_cube", "data.decoder", "data.cache", "cropper.frames", "cropper.size", "train.global_batch"),
    *("train.workers", "train.device", "train.precision", "train.compile"),
)
START = 15.0  # seconds of a run besides its steps, if none was measured without an interruption


class Pace(NamedTuple):
    """Seconds per step, and seconds besides the steps (None: the run was interrupted)."""

    step: float
    besides: float | None


def costly(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of all settings, by dotted name, those on which the time of a step depends."""
    return {name: value for name, value in settings.items() if name in COSTLY or name.partition(".")[0] in COSTLY}


def pace(folder: Path, batch: int) -> Pace | None:
    """The pace of a run in this folder; None if it has logged too little.

    Args:
        batch: videos per step.
    """
    metrics, history = read_metrics(folder), read_lines(folder / "history.jsonl")
    # The first line has the start of the workers in it.
    speeds = [2 * batch / line["clips_per_s"] for line in metrics[1:] if line.get("clips_per_s")]
    if not speeds:
        return None
    step, times = median(speeds), {line["event"]: line["time"] for line in history}
    once = sum(line["event"] == "workers" for line in history) == 1 and "finished" in times and "running" in times
    besides = times["finished"] - times["running"] - step * metrics[-1]["step"] if once else None
    return Pace(step, None if besides is None else max(0.0, besides))


def paces(runs: Path, config: Config) -> list[Pace]:
    """The paces of the runs below ``runs`` with this config's name and costly settings."""
    wanted, found = costly(flatten(config.model_dump(mode="json"))), list[Pace]()
    for folder in sorted(runs.glob(f"{config.run.name}-*")):
        try:
            settings = defaults() | recorded(yaml.safe_load((folder / "config.yaml").read_text()))
        except (OSError, ValueError, AttributeError, yaml.YAMLError):
            continue
        if costly(settings) == wanted and (one := pace(folder, config.train.global_batch)) is not None:
            found.append(one)
    return found


def seconds_of(paces: Sequence[Pace], steps: int) -> float:
    """The time of a run of ``steps``."""
    besides = [one.besides for one in paces if one.besides is not None]
    return median(one.step for one in paces) * steps + (median(besides) if besides else START)


def evaluation_seconds(runs: Path, name: str, tasks: Sequence[tuple[str, str]]) -> float | None:
    """The time of a run's evaluations, given as (dataset, protocol); None if one of them was never made.

    Args:
        name: name of the runs to look at.
    """
    spent: dict[tuple[str, str], list[float]] = {task: [] for task in tasks}
    for folder in sorted(runs.glob(f"{name}-*")):
        results = [read_result(file) for file in (folder / "evaluations").glob("*.json")]
        for task in tasks:
            seconds = [r["seconds"] for r in results if r and (r["dataset"], r["protocol"]) == task]
            if seconds:
                spent[task].append(sum(seconds))
    return sum(map(median, spent.values())) if all(spent.values()) else None
