"""Figures from run records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from paramcrop.runs import read_metrics

VIEW_COLORS = ("#ff8c00", "#19a35b")  # orange and green, as in the paper's Figure 5
SHOWN_FRAMES = 6


def plot_figure5(runs: Mapping[str, Sequence[Path]], out: Path) -> None:
    """The paper's Figure 5: centre distance (solid) and IoU (dashed) of the two crops over training, a colour a label.

    Several runs under one label (seeds, logged at the same steps) are drawn as their mean and range.
    """
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    right = axes.twinx()
    for i, (label, folders) in enumerate(runs.items()):
        _curve(axes, folders, "crop_distance", f"C{i}", "-", f"{label}: centre distance")
        _curve(right, folders, "crop_iou", f"C{i}", "--", f"{label}: IoU")
    axes.set(xlabel="step", ylabel="centre Manhattan distance (solid)", ylim=(0, None))
    right.set(ylabel="volume IoU (dashed)", ylim=(0, 1))
    lines = [*axes.get_lines(), *right.get_lines()]
    figure.legend(lines, [str(line.get_label()) for line in lines], loc="outside upper center", ncols=2, fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def _curve(axes: Axes, folders: Sequence[Path], name: str, color: str, style: str, label: str) -> None:
    metrics = [read_metrics(folder) for folder in folders]
    steps = [m["step"] for m in metrics[0]]
    values = np.array([[m[name] for m in run] for run in metrics])  # (runs, steps)
    axes.plot(steps, values.mean(0), color=color, ls=style, label=label)
    if len(values) > 1:
        axes.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.2, lw=0)


def plot_crops(folder: Path, out: Path) -> None:
    """The kept videos of a run, frames in time, with both crops' boxes at start, middle and end: one row each.

    A box is drawn on the frames its crop covers in time; frames are shown as the croppers saw them (flipped, if so).
    """
    snapshots = [np.load(path) for path in sorted((folder / "crops").glob("step=*.npz"))]
    steps = [int(path.stem.partition("=")[2]) for path in sorted((folder / "crops").glob("step=*.npz"))]
    if not snapshots:
        return
    videos, views = snapshots[0]["video"], 2 if snapshots[0]["video"].shape[1] == 2 else 1
    rows = [
        (video, view, s) for video in range(min(2, len(videos))) for s in range(len(steps)) for view in range(views)
    ]
    figure, grid = plt.subplots(
        len(rows), SHOWN_FRAMES, figsize=(1.6 * SHOWN_FRAMES, 1.6 * len(rows)), squeeze=False, layout="constrained"
    )
    for line, (video, view, s) in zip(grid, rows, strict=True):
        clip = videos[video, view]
        shown = np.linspace(0, len(clip) - 1, SHOWN_FRAMES).round().astype(int)
        drawn = (0, 1) if views == 1 else (view,)
        for axes, t in zip(line, shown, strict=True):
            _frame(axes, clip, t, snapshots[s]["boxes"][video], snapshots[s]["flip"][video], drawn, view)
        line[0].set_ylabel(f"step {steps[s]}" + (f"\nview {view + 1}" if views == 2 else ""), fontsize=8)
    for axes, t in zip(grid[0], shown, strict=True):
        axes.set_title(f"frame {t}", fontsize=8)
    figure.suptitle("crop of view 1 (orange) and of view 2 (green)", fontsize=9)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _frame(
    axes: Axes, clip: np.ndarray, t: int, boxes: np.ndarray, flip: np.ndarray, drawn: tuple[int, ...], view: int
) -> None:
    frames, height, width, _ = clip.shape
    mirrored = flip[view] if len(drawn) == 1 else False
    axes.imshow(clip[t][:, ::-1] if mirrored else clip[t])
    axes.set_xticks([])
    axes.set_yticks([])
    for i in drawn:
        (x0, x1), (y0, y1), (t0, t1) = boxes[i]
        if len(drawn) == 2 and flip[i]:  # one frame, two views: back into its own, unflipped frame
            x0, x1 = 1 - x1, 1 - x0
        if t0 * frames <= t + 0.5 <= t1 * frames:
            corner = (x0 * width - 0.5, y0 * height - 0.5)
            box = Rectangle(corner, (x1 - x0) * width, (y1 - y0) * height, fill=False, ec=VIEW_COLORS[i], lw=2)
            axes.add_patch(box)
