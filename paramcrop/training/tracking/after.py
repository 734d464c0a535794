"""What the trackers of a run get after its training: pictures, and results of evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paramcrop.training.tracking.tracker import Facts
from paramcrop.training.tracking.trackers import Trackers


def track_pictures(names: Sequence[str], folder: Path, step: int, pictures: Iterable[str]) -> list[str]:
    """Give the PNGs ``pictures`` in a run's folder to its trackers -> a line for each tracker that failed."""
    trackers = Trackers(names, Facts(folder.name, str(folder), {}, None))
    for name in pictures:
        if (folder / name).exists():
            trackers.picture(step, Path(name).stem, folder / name)
    return _closed(trackers)


def track_results(names: Sequence[str], folder: Path, step: int, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Give results, as they are stored, to a run's trackers -> a line for each tracker that failed."""
    trackers = Trackers(names, Facts(folder.name, str(folder), {}, None))
    trackers.results(step, {name: value for result in results for name, value in named(result).items()})
    return _closed(trackers)


def named(result: Mapping[str, Any]) -> dict[str, float]:
    """ "ucf101/knn/test1/video@1" -> its value, in [0, 1]; the seed stands behind the split where it is not 0."""
    seed = f"-seed{result['seed']}" if result["seed"] else ""
    start = f"{result['dataset']}/{result['protocol']}/{result['splits'][1]}{seed}"
    return {f"{start}/{row['metric']}": row["value"] for row in result["rows"]}


def _closed(trackers: Trackers) -> list[str]:
    trackers.close()
    return [f"note: {text}" for text in trackers.news()]
