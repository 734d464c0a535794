"""Curves and histograms from run records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from paramcrop.report.snapshots import PARAMETERS, read_snapshots
from paramcrop.storage.runs import read_metrics

VIEW_COLORS = ("#ff8c00", "#19a35b")  # orange and green, as in the paper's Figure 5
TOGETHER = 3  # up to this many labels, centre distance and IoU share a panel
STYLES = ("-", "--", "-.")
BINS = 40
LIMITS = {"s_p": (0.0, 1.0), "s_t": (0.0, 1.0), "dx": (-1.0, 1.0), "dy": (-1.0, 1.0), "dt": (-1.0, 1.0)}


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
    lines = [*left.get_lines(), *([] if separate else right.get_lines())]
    labels = [str(line.get_label()) for line in lines]
    figure.legend(lines, labels, loc="outside upper center", ncols=4 if separate else 2, fontsize=8)
    left.grid(alpha=0.3)
    if separate:
        right.set_xlabel("step")
        right.grid(alpha=0.3)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def _curve(axes: Axes, folders: Sequence[Path], name: str, color: str, style: str, label: str) -> None:
    metrics = [{m["step"]: m[name] for m in read_metrics(folder)} for folder in folders]
    steps = sorted(set.intersection(*(set(run) for run in metrics)))
    values = np.array([[run[step] for step in steps] for run in metrics])  # (runs, steps)
    order = 3 - len(axes.get_lines()) / 100  # the first curve on top; equal curves show through its gaps
    axes.plot(steps, values.mean(0), color=color, ls=style, label=label, zorder=order)
    if len(values) > 1:
        axes.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.2, lw=0)


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
