"""Curves and histograms from run records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import Any, BinaryIO

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from paramcrop.report.snapshots import PARAMETERS, read_snapshots
from paramcrop.storage.runs import read_metrics

VIEW_COLORS = ("#ff8c00", "#19a35b")  # orange and green, as in the paper's Figure 5
TOGETHER = 3  # up to this many labels, centre distance and IoU share a panel
LETTER, HANDLE = 0.075, 0.6  # inches that a letter of a legend takes at most, and its line with the gaps
STYLES = ("-", "--", "-.")
BINS = 40
LIMITS = {"s_p": (0.0, 1.0), "s_t": (0.0, 1.0), "dx": (-1.0, 1.0), "dy": (-1.0, 1.0), "dt": (-1.0, 1.0)}
ACROSS = 3  # panels side by side
PANELS = {  # title -> metrics and their labels
    "loss": [("loss", "loss")],
    "cosine similarity": [
        ("similarity_positive", "a video's two views"),
        ("similarity_negative", "different videos"),
        ("similarity_gap", "gap, in the batch"),
    ],
    "accuracy of probes": [("probe_knn", "k-NN"), ("probe_linear", "linear head")],
    "effective rank of embeddings": [("rank", "rank")],
    "spread of embeddings (x √D)": [("embedding_std", "spread")],
    "alignment and uniformity": [("alignment", "alignment"), ("uniformity", "uniformity")],
    "centre distance of the crops": [("crop_distance", "in the clip"), ("source_distance", "in the video")],
    "IoU of the crops": [("crop_iou", "in the clip"), ("source_iou", "in the video")],
    "norm of gradients (log)": [("grad_norm", "network"), ("grad_norm_cropper", "croppers")],
    "views per second": [("clips_per_s", "views")],
    "share of time waiting for data": [("data_wait", "share")],
}


@contextmanager
def as_spelt() -> Iterator[None]:
    """Draw the names of classes, trials and datasets as they are spelt; "$" would start a formula."""
    with plt.rc_context({"text.parse_math": False}):
        yield


@as_spelt()
def plot_figure5(runs: Mapping[str, Sequence[Path]], out: Path, frame: str = "crop") -> None:
    """The paper's Figure 5: centre distance (solid) and IoU (dashed) of the two crops during training.

    Each label has a colour. Several runs under a label (seeds) are drawn as their mean and range over the steps that
    all of them logged. With more than three labels, centre distance and IoU have separate panels.

    Args:
        frame: "crop": measured in the clip of the croppers; "video": in the video that R1 and R2 cut it from
            (Figure 1b).
    """
    separate, measured = len(runs) > TOGETHER, {"crop": "crop", "video": "source"}[frame]
    figure, grid = plt.subplots(
        1, 2 if separate else 1, figsize=(11 if separate else 7, 4), squeeze=False, layout="constrained"
    )
    left = grid[0, 0]
    right = grid[0, 1] if separate else left.twinx()
    for i, (label, folders) in enumerate(runs.items()):
        style = STYLES[i % len(STYLES)] if separate else "-"
        first, second = (label, label) if separate else (f"{label}: centre distance", f"{label}: IoU")
        _curve(left, folders, f"{measured}_distance", f"C{i}", style, first)
        _curve(right, folders, f"{measured}_iou", f"C{i}", style if separate else "--", second)
    left.set(xlabel="step", ylabel="centre Manhattan distance" + ("" if separate else " (solid)"), ylim=(-0.02, None))
    right.set(ylabel="volume IoU" + ("" if separate else " (dashed)"), ylim=(-0.02, 1.02))
    lines, labels = left.get_lines(), list(runs)
    if len(runs) == 1:  # with several, the axes say which lines are solid and which dashed
        lines, labels = [*lines, *right.get_lines()], ["centre distance", "IoU"]
    add_legend(figure, lines, labels, most=4)
    left.grid(alpha=0.3)
    if separate:
        right.set_xlabel("step")
        right.grid(alpha=0.3)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def add_legend(figure: Figure, lines: Sequence[Line2D], labels: Sequence[str], most: int) -> Legend:
    """A legend above the panels, in up to ``most`` columns that fit the width of the figure; long labels wrap."""
    width = figure.get_figwidth()
    ncols = max(1, min(most, len(lines), int(width / (max(map(len, labels), default=1) * LETTER + HANDLE))))
    wrapped = [fill(label, int((width / ncols - HANDLE) / LETTER)) for label in labels]
    return figure.legend(lines, wrapped, loc="outside upper center", ncols=ncols, fontsize=8)


def over_steps(folders: Sequence[Path], name: str) -> tuple[list[int], np.ndarray]:
    """A metric of several runs at the steps that all of them logged -> (steps), (runs, steps)."""
    metrics = [{m["step"]: m[name] for m in read_metrics(folder) if m.get(name) is not None} for folder in folders]
    steps = sorted(set.intersection(*(set(run) for run in metrics)))
    return steps, np.array([[run[step] for step in steps] for run in metrics])


def _curve(axes: Axes, folders: Sequence[Path], name: str, color: str, style: str, label: str) -> None:
    steps, values = over_steps(folders, name)
    order = 3 - len(axes.get_lines()) / 100  # the first curve on top; equal curves show through its gaps
    axes.plot(steps, values.mean(0), color=color, ls=style, label=label, zorder=order)
    if len(values) > 1:
        axes.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.2, lw=0)


def plot_curves(metrics: Sequence[Mapping[str, Any]], out: Path | BinaryIO, chance: float | None = None) -> None:
    """The curves of one run over its logged steps, in the panels of ``PANELS`` that it has metrics for.

    Args:
        chance: the loss of a network that says nothing; None: unknown.
    """
    logged = {name for line in metrics for name, value in line.items() if value is not None}
    panels = {title: kept for title, lines in PANELS.items() if (kept := [one for one in lines if one[0] in logged])}
    down = -(-len(panels) // ACROSS)
    figure, grid = plt.subplots(down, ACROSS, figsize=(3.7 * ACROSS, 2.5 * down), squeeze=False, layout="constrained")
    for axes, (title, lines) in zip(grid.flat, panels.items(), strict=False):
        for name, label in lines:
            shown = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
            axes.plot(*zip(*shown, strict=True), marker="." if len(shown) < 30 else None, ms=4, label=label)
        if title == "loss" and chance is not None:
            axes.axhline(chance, color="black", ls=":", lw=1, label=f"by chance, {chance:.3f}")
        if "log" in title:
            axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(fontsize=7)
    for axes in list(grid.flat)[len(panels) :]:
        axes.axis("off")
    figure.savefig(out, dpi=100, format="png")
    plt.close(figure)


@as_spelt()
def plot_parameters(folder: Path, out: Path) -> None:
    """Histograms of a run's six crop parameters (columns) at start, middle and end (rows), with a colour per view.

    Raises:
        DataError: the run has no saved crops.
    """
    snapshots = read_snapshots(folder)
    size = (2.0 * len(PARAMETERS), 1.5 * len(snapshots) + 0.5)
    figure, grid = plt.subplots(len(snapshots), len(PARAMETERS), figsize=size, squeeze=False, layout="constrained")
    for line, snapshot in zip(grid, snapshots, strict=True):
        for axes, name, values in zip(line, PARAMETERS, np.moveaxis(snapshot.params, 2, 0), strict=True):
            _histogram(axes, name, values)
        line[0].set_ylabel(f"step {snapshot.step}\nshare", fontsize=8)
    for axes, name in zip(grid[0], PARAMETERS, strict=True):
        axes.set_title(f"{name} (degrees)" if name == "theta" else name, fontsize=9)
    figure.suptitle(f"crop parameters of view 1 (orange) and view 2 (green), {len(values)} draws", fontsize=9)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _histogram(axes: Axes, name: str, values: np.ndarray) -> None:
    """Draw ``values`` (N, 2), one column per view."""
    shown = np.degrees(values) if name == "theta" else values
    most = max(1.0, float(np.abs(shown).max()))
    low, high = LIMITS.get(name, (-most, most))
    for view, color in enumerate(VIEW_COLORS):
        weights = np.full(len(shown), 1 / len(shown))
        axes.hist(shown[:, view], BINS, range=(low, high), weights=weights, color=color, alpha=0.6)
    axes.set(xlim=(low, high))
    axes.tick_params(labelsize=6)
