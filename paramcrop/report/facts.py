"""Facts about the pretraining runs of a trial: final metrics and cost. Imports no torch."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from paramcrop.evaluation.statistics import t_half
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.runs import read_metrics, read_status
from paramcrop.sweeps.cost import worker_seconds

LABELS = ("mean_teacher",)  # methods that learn from labels
# Of the last logged step, by the frame that a space measures its crops in.
FINAL_METRICS = {
    "crop": {"crop_distance": "centre distance", "crop_iou": "IoU", "loss": "loss"},
    "video": {"source_distance": "centre distance in the video", "source_iou": "IoU in the video", "loss": "loss"},
}
ENDS = tuple(dict.fromkeys(name for names in FINAL_METRICS.values() for name in names))


class RunFacts(NamedTuple):
    """One pretraining run. Facts that are missing in its folder are empty or None.

    Attributes:
        settings: the resolved settings.
        data: content id of the pretraining videos.
        videos: dataset, number of videos and of classes.
        end: name in ``ENDS`` -> value at the last logged step.
        clips_per_s: median over the logged steps; counts views.
        seconds: worker seconds per device, "cpu" or "cuda".
        all_known: whether ``seconds`` is complete; the duration of a start that was killed is unknown.
    """

    seed: int
    folder: Path
    state: str
    error: str
    settings: dict[str, Any]
    id: str
    commit: str
    data: str
    videos: dict[str, Any]
    end: dict[str, float]
    clips_per_s: float | None
    seconds: dict[str, float]
    all_known: bool

    @property
    def split(self) -> str | None:
        """The split of the dataset that it was pretrained on; None: all videos."""
        split: str | None = self.settings.get("data", {}).get("split")
        return split

    @property
    def labels(self) -> bool:
        """Whether it learned from labels."""
        return self.settings.get("method") in LABELS


def run_facts(run: Mapping[str, Any]) -> RunFacts:
    """Read the facts of a run in a trial's record from its folder, which may be incomplete or missing."""
    folder = Path(run["folder"])
    provenance, metrics = _json(folder / "provenance.json"), read_metrics(folder)
    seconds, all_known = worker_seconds(read_lines(folder / "history.jsonl"))
    speeds = [line["clips_per_s"] for line in metrics if line.get("clips_per_s") is not None]
    return RunFacts(
        seed=run["seed"],
        folder=folder,
        state=run["state"] or read_status(folder)["state"],
        error=run["error"],
        settings=_settings(folder),
        id=provenance.get("run_id", ""),
        commit=provenance.get("commit", ""),
        data=provenance.get("data", ""),
        videos=provenance.get("videos", {}),
        end={name: metrics[-1][name] for name in ENDS if metrics and metrics[-1].get(name) is not None},
        clips_per_s=statistics.median(speeds) if speeds else None,
        seconds=seconds,
        all_known=all_known,
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return facts


def _settings(folder: Path) -> dict[str, Any]:
    try:
        return yaml.safe_load((folder / "config.yaml").read_text()) or {}
    except (OSError, yaml.YAMLError):
        return {}


class Spread(NamedTuple):
    """Mean over seeds, half its 95 % t-interval (None with fewer than three seeds), and the value of each seed."""

    value: float
    half: float | None
    values: tuple[float, ...]


def final_metric(runs: Iterable[RunFacts], name: str) -> Spread | None:
    """One of ``ENDS`` over the finished runs, or over all runs if none is finished; None: not logged."""
    logged = [run for run in runs if name in run.end]
    finished = [run for run in logged if run.state == "finished"] or logged
    values = tuple(run.end[name] for run in finished)
    return Spread(statistics.fmean(values), t_half(values), values) if values else None


def common_settings(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings that have the same value in all of them, by section."""
    if not settings:
        return {}
    first, found = settings[0], dict[str, Any]()
    for key, value in first.items():
        others = [one.get(key) for one in settings]
        if isinstance(value, Mapping) and all(isinstance(other, Mapping) for other in others):
            found |= {key: part} if (part := common_settings([other for other in others if other is not None])) else {}
        elif all(other == value for other in others):
            found[key] = value
    return found
