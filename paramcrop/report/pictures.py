"""Pictures of results: confusion matrix, accuracy per class, and queries with their nearest neighbours."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from paramcrop.data.video import VideoReader
from paramcrop.errors import VideoError
from paramcrop.evaluation.job import Job
from paramcrop.evaluation.videos import open_split, rows
from paramcrop.report.plots import as_spelt
from paramcrop.storage.results import read_result

QUERIES, NEIGHBOURS = 6, 5
TILE = 1.7  # inches
RIGHT, WRONG = "#19a35b", "#d62728"


def draw_results(jobs: Sequence[Job]) -> list[Path]:
    """Draw each run and task over all its splits into the run's folder ``pictures`` -> the files."""
    groups: dict[tuple[str, str, str], list[tuple[Job, dict[str, Any]]]] = {}
    for job in jobs:
        result = read_result(job.result_file)
        if result is not None:
            groups.setdefault((job.run, job.dataset, job.how.label), []).append((job, result))
    return [path for (run, dataset, label), found in groups.items() for path in _draw(Path(run), dataset, label, found)]


def _draw(run: Path, dataset: str, label: str, found: list[tuple[Job, dict[str, Any]]]) -> Iterator[Path]:
    folder = run / "pictures"
    folder.mkdir(exist_ok=True)
    name = re.sub(r"[^\w.=-]+", "_", f"{dataset}-{label}").strip("_")
    job, first = found[0]
    if "confusion" in first:
        total = np.sum([result["confusion"] for _, result in found], 0)
        draw_confusion(total, first["classes"], folder / f"{name}-confusion.png")
        draw_per_class(total, first["classes"], folder / f"{name}-classes.png")
        yield from (folder / f"{name}-confusion.png", folder / f"{name}-classes.png")
    if "nearest" in first["facts"]:
        draw_neighbours(job, first, folder / f"{name}-neighbours.png")
        yield folder / f"{name}-neighbours.png"


@as_spelt()
def draw_confusion(counts: np.ndarray, classes: Sequence[str], out: Path) -> None:
    """Draw counts (C, C) with true classes as rows, as fractions of each row."""
    side = max(4.0, 0.28 * len(classes) + 1.5)
    figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
    axes.set_yticks(range(len(classes)), classes, fontsize=7)
    if len(classes) <= 12:
        for i, j in np.argwhere(counts):
            axes.text(
                j, i, str(counts[i, j]), ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black"
            )
    figure.colorbar(image, ax=axes, shrink=0.7, label="fraction of the class")
    _save(figure, out)


@as_spelt()
def draw_per_class(counts: np.ndarray, classes: Sequence[str], out: Path) -> None:
    """Draw the accuracy of each class, best first, with its number of videos."""
    total = counts.sum(1)
    accuracy = np.diag(counts) / np.maximum(total, 1)
    order = np.argsort(accuracy, kind="stable")
    figure, axes = plt.subplots(figsize=(6, max(2.0, 0.22 * len(classes) + 1)), layout="constrained")
    axes.barh(range(len(classes)), accuracy[order], color="#4878a8")
    axes.set_yticks(range(len(classes)), [f"{classes[i]} ({total[i]})" for i in order], fontsize=7)
    axes.axvline(float(np.diag(counts).sum()) / float(counts.sum()), color="black", ls="--", lw=1, label="all videos")
    axes.set(xlabel="accuracy", xlim=(0, 1))
    axes.legend(fontsize=7, loc="lower right")
    _save(figure, out)


@as_spelt()
def draw_neighbours(job: Job, result: dict[str, Any], out: Path) -> None:
    """Draw correct and wrong queries (left) with their nearest training videos, green if they have the same class."""
    chosen = _some_queries(result["scores"]["R@1"])
    near = [result["facts"]["nearest"][i][:NEIGHBOURS] for i in chosen]
    train, test = open_split(job.folder, job.train), open_split(job.folder, job.test)
    labels = {**train.labels, **test.labels}  # the queries of a validation are training videos
    frames = middle_frames(job, {result["videos"][i] for i in chosen} | {video for line in near for video in line})
    height, width = next(iter(frames.values())).shape[:2] if frames else (1, 1)
    size = (TILE * (1 + NEIGHBOURS), (TILE * height / width + 0.25) * len(chosen) + 0.4)
    figure, grid = plt.subplots(len(chosen), 1 + NEIGHBOURS, figsize=size, squeeze=False, layout="constrained")
    for line, i, neighbours in zip(grid, chosen, near, strict=True):
        query = result["videos"][i]
        label = labels[query]
        _frame(line[0], frames.get(query), f"query: {train.classes[label]}", "black")
        for axes, video in zip(line[1:], neighbours, strict=False):
            same = train.labels[video] == label
            _frame(axes, frames.get(video), train.classes[train.labels[video]], RIGHT if same else WRONG)
        for axes in line[1 + len(neighbours) :]:
            axes.axis("off")
    source = f"part of {job.train}" if job.how.kind == "validation" else job.test
    figure.suptitle(f"{job.dataset}: queries from {source} and their nearest neighbours in {job.train}", fontsize=9)
    _save(figure, out)


def _some_queries(correct: Sequence[float]) -> list[int]:
    """Choose queries spread over the set, half of them correct if there are enough."""
    hits, misses = ([i for i, value in enumerate(correct) if bool(value) is hit] for hit in (True, False))
    half = QUERIES // 2
    take = min(len(hits), max(half, QUERIES - len(misses)))
    return [*_spread(hits, take), *_spread(misses, QUERIES - take)]


def _spread(items: Sequence[int], n: int) -> list[int]:
    n = min(n, len(items))
    return [items[round(i * (len(items) - 1) / max(n - 1, 1))] for i in range(n)]


def middle_frames(job: Job, ids: Collection[str]) -> dict[str, np.ndarray]:
    """Id -> middle frame, uint8 (H, W, 3), without videos that cannot be decoded."""
    found: dict[str, np.ndarray] = {}
    for split in (job.test, job.train):
        for row in rows(open_split(job.folder, split)):
            if row["id"] in ids and row["id"] not in found:
                try:
                    reader = VideoReader(row["video"])
                    found[row["id"]] = reader.read(np.array([reader.frames // 2]))[0]
                except VideoError:
                    continue
            if len(found) == len(ids):
                return found
    return found


def _frame(axes: Axes, frame: np.ndarray | None, title: str, color: str) -> None:
    if frame is not None:
        axes.imshow(frame)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=7, color=color, pad=4)
    for side in axes.spines.values():
        side.set(color=color, linewidth=2.5)


def _save(figure: Any, out: Path) -> None:
    figure.savefig(out, dpi=110)
    plt.close(figure)
