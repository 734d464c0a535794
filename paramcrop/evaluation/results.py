"""Evaluation results: a file each, written whole; their rows in a table; means with honest errors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from paramcrop.storage.files import whole
from paramcrop.storage.jsonl import append_line

# Student's t, two-sided 95 %, by degrees of freedom; beyond, the normal's with its first correction.
T95 = (math.nan, 12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
LEAST_SEEDS = 3  # for an interval
SHOWN = ("video@1", "class mean", "clip@1", "R@1", "R@5", "R@20")  # in tables; the rest is in the results


def write_result(file: Path, result: Mapping[str, Any]) -> None:
    """Keep a result, and add its rows to results.jsonl beside the folder; the file appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file) as part:
        part.write_text(json.dumps(result))
    append_rows(file.parent.parent / "results.jsonl", result)


def append_rows(file: Path, result: Mapping[str, Any]) -> None:
    """A line for each metric of a result."""
    told = ("eval_id", "subject", "dataset", "content_id", "splits", "protocol", "version", "seed", "pretraining_seed")
    for row in result["rows"]:
        append_line(file, {name: result[name] for name in (*told, "commit")} | row)


def read_result(file: Path) -> dict[str, Any] | None:
    """None: it is not there, or not one of ours."""
    try:
        result = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and "rows" in result else None


def shown_metrics(result: Mapping[str, Any]) -> list[str]:
    """Those of ``SHOWN`` that the result has; the first is its main one."""
    had = {row["metric"] for row in result["rows"]}
    return [metric for metric in SHOWN if metric in had]


class Mean(NamedTuple):
    """A mean and what is known of it.

    Attributes:
        value: mean over seeds of each seed's mean. values: each seed's.
        half: half the 95 % t-interval of the mean over seeds; None with fewer than three.
        test_error: standard error that the choice of test videos alone gives, sqrt(p (1 - p) / n).
        n, of: test videos read, and all, over the splits.
    """

    value: float
    values: tuple[float, ...]
    half: float | None
    test_error: float
    n: int
    of: int


def mean_of(cells: Mapping[Any, Sequence[Mapping[str, Any]]]) -> Mean:
    """Seed -> its rows of one metric, of every split (and evaluation) -> their mean.

    Splits are averaged within a seed first: they share the training and are no independent repeats. A split counts by
    its videos, which makes leave-one-out folds add up to one accuracy over all videos.
    """
    values = tuple(sum(r["value"] * r["n"] for r in rows) / sum(r["n"] for r in rows) for rows in cells.values())
    value = sum(values) / len(values)
    first = {str(row["splits"]): row for row in next(iter(cells.values()))}.values()
    n, of = sum(row["n"] for row in first), sum(row["of"] for row in first)
    return Mean(value, values, t_half(values), math.sqrt(max(value * (1 - value), 0.0) / n), n, of)


def means(results: Sequence[Mapping[str, Any]]) -> dict[str, Mean]:
    """Results of one subject on one task -> metric -> its mean over seeds: the pretrainings' of a run, else its own."""
    found = {}
    for metric in (row["metric"] for row in results[0]["rows"]):
        seeds: dict[int, list[dict[str, Any]]] = {}
        for result in results:
            seed = result["pretraining_seed"] if result["subject"] == "run" else result["seed"]
            row = next(row for row in result["rows"] if row["metric"] == metric)
            seeds.setdefault(seed, []).append(row | {"splits": result["splits"]})
        found[metric] = mean_of(seeds)
    return found


def t_half(values: Sequence[float]) -> float | None:
    """Half the 95 % t-interval of the mean of independent values; None with fewer than three."""
    if len(values) < LEAST_SEEDS:
        return None
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    freedom = len(values) - 1
    t = T95[freedom] if freedom < len(T95) else 1.95996 + 2.3722 / freedom + 2.8225 / freedom**2
    return t * math.sqrt(variance / len(values))


class Difference(NamedTuple):
    """a - b in a metric: over seeds, with its interval, and whether that leaves out 0."""

    value: float
    half: float | None
    resolved: bool


def paired_difference(a: Sequence[Mapping[str, float]], b: Sequence[Mapping[str, float]]) -> Difference:
    """Scores by video, one mapping a seed, of two subjects on the same videos.

    Each video's score is averaged over the seeds first, so that a video counts once. The 95 % t-interval is over
    videos: it says what others would have given, not what other seeds would. Only videos that were read in all count.
    """
    shared = set.intersection(*(set(scores) for scores in (*a, *b)))
    differences = [sum(x[video] for x in a) / len(a) - sum(y[video] for y in b) / len(b) for video in sorted(shared)]
    half = t_half(differences)
    value = sum(differences) / len(differences)
    return Difference(value, half, half is not None and abs(value) > half)


def scores_by_video(results: Iterable[Mapping[str, Any]], metric: str) -> dict[str, float]:
    """One seed's results over splits -> video -> its score."""
    return {
        video: score
        for result in results
        for video, score in zip(result["videos"], result["scores"][metric], strict=True)
    }


def by_seed(results: Iterable[Mapping[str, Any]], metric: str) -> list[dict[str, float]]:
    """Video -> score, over all splits, one mapping for each pretraining (or baseline) and evaluation seed."""
    seeds: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for result in results:
        seeds.setdefault((result["pretraining_seed"], result["seed"]), []).append(result)
    return [scores_by_video(found, metric) for found in seeds.values()]
