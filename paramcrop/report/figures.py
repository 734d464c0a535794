"""The figures of a sweep as PNG files."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from paramcrop.errors import DataError
from paramcrop.report.crop_pictures import plot_crops
from paramcrop.report.interactive.charts import curves_chart, training_chart, trials_chart
from paramcrop.report.panels import PAPER, Measure, at_end, by_label, draw_search, main_metric, over_key
from paramcrop.report.plots import as_spelt, plot_figure5
from paramcrop.report.snapshots import read_snapshots
from paramcrop.report.table import Table
from paramcrop.storage.files import atomic_write
from paramcrop.storage.runs import read_metrics

MAX_LABELLED = 24  # trials in a figure with one line per trial
MAX_CURVES = 8  # trials in Figure 5 and in the picture of crops
ACROSS = 3  # panels side by side
WRAP = 42  # characters per line of a title
DPI = 150
FRAMES = {"crop": "the croppers' clip", "video": "the video, with R1 and R2"}
ERRORS = "± 95 % t-interval of the mean over seeds; with fewer than three seeds, a small dot per seed"
DISTANCES = {"crop": "crop_distance", "video": "source_distance"}  # by the frame of the space


class Picture(NamedTuple):
    """A file and its caption, and the same as a chart that answers the mouse: JSON for ``Plotly.newPlot``, or none."""

    file: Path
    caption: str
    chart: str = ""


def draw(table: Table, sweep: Path) -> list[Picture]:
    """Draw all pictures that the results allow into the sweep's folder ``figures``; the main one comes first."""
    folder = sweep / "figures"
    folder.mkdir(exist_ok=True)
    tasks = {f"{task.name}\n{task.metrics[0]} (%)": main_metric(task) for task in table.tasks}
    searched = draw_search(table, sweep, folder) if table.space.search != "grid" else ()
    return [*(Picture(*one) for one in searched), *_question(table, tasks, folder), *_training(table, folder)]


def _question(table: Table, tasks: Mapping[str, Measure], folder: Path) -> Iterator[Picture]:
    if not any(row.cells for row in table.rows):
        return
    if table.space.show == "curve" and table.space.params:
        _curves(table, tasks, folder / "curve.png")
        caption = f"Main metrics over the swept setting; dotted line: chance. {ERRORS}."
        yield Picture(folder / "curve.png", caption, curves_chart(table, tasks))
        frame = table.space.frame
        distance = {"centre distance at the end": at_end(DISTANCES[frame])}
        _curves(table, distance, folder / "distance.png")
        caption = f"Centre distance of the two crops at the end, in {FRAMES[frame]}. {ERRORS}."
        yield Picture(folder / "distance.png", caption, curves_chart(table, distance))
    elif len(table.rows) <= MAX_LABELLED:
        _labelled(table, tasks, folder / "trials.png")
        caption = "Main metrics; dashed line: the first trial, dotted line: chance"
        yield Picture(folder / "trials.png", f"{caption}. {ERRORS}.", trials_chart(table.rows, tasks))


def _training(table: Table, folder: Path) -> Iterator[Picture]:
    """Figure 5 of all trials, and the crops themselves."""
    runs = {row.label: [run.folder for run in row.runs if read_metrics(run.folder)] for row in table.rows}
    runs = {label: folders for label, folders in runs.items() if folders}
    crops = table.space.show == "crops"
    if runs and (crops or len(table.rows) <= MAX_CURVES):
        first = dict(list(runs.items())[:MAX_CURVES])
        kept = {label: folders[0] for label, folders in first.items() if _has_crops(folders[0])}
        if crops and kept:
            with atomic_write(folder / "crops.png") as part:
                plot_crops(kept, part, table.space.videos)
            caption = "The crops drawn on frames, at start, middle and end, for the first seed of each trial."
            yield Picture(folder / "crops.png", caption)
        with atomic_write(folder / "figure5.png") as part:
            plot_figure5(first, part, table.space.frame)
        caption = f"Centre distance and IoU of the two crops during training, in {FRAMES[table.space.frame]}"
        caption += " (as in the paper's Figure 5); mean and range over seeds."
        yield Picture(folder / "figure5.png", caption, training_chart(first, table.space.frame))


def _has_crops(run: Path) -> bool:
    try:
        read_snapshots(run)
    except DataError:
        return False
    return True


@as_spelt()
def _curves(table: Table, measures: Mapping[str, Measure], out: Path) -> None:
    """A panel for each swept key (rows) and measure (columns); with a single key, panels fill the rows."""
    keys = list(table.space.params)
    cells = [(key, name) for key in keys for name in measures]
    across = len(measures) if len(keys) > 1 else _across(len(measures))
    down = -(-len(cells) // across)
    figure, grid = plt.subplots(down, across, figsize=(4.2 * across, 3.4 * down), squeeze=False, layout="constrained")
    for axes, cell in zip_longest(grid.flat, cells):
        if cell is None:
            axes.axis("off")
            continue
        key, name = cell
        over_key(axes, table, key, measures[name])
        title, _, label = name.rpartition("\n")
        axes.set_title(_broken(title), fontsize=9)
        axes.set_ylabel(label)
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(fontsize=7)
    _save(figure, out)


@as_spelt()
def _labelled(table: Table, measures: Mapping[str, Measure], out: Path) -> None:
    across = _across(len(measures))
    down = -(-len(measures) // across)
    size = (2.4 + 3.0 * across, (0.9 + 0.33 * len(table.rows)) * down)
    figure, grid = plt.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
    for i, (axes, cell) in enumerate(zip_longest(grid.flat, measures.items())):
        if cell is None:
            axes.axis("off")
            continue
        name, measure = cell
        by_label(axes, table.rows, measure, labelled=i % across == 0)
        title, _, label = name.rpartition("\n")
        axes.set_title(_broken(title), fontsize=9)
        axes.set_xlabel(label)
    _save(figure, out)


def _broken(title: str) -> str:
    """Break a title into lines; the numbers of a protocol may be separated."""
    return textwrap.fill(title.replace(",", ", "), WRAP)


def _across(panels: int) -> int:
    """The number of panels side by side; four panels form a square."""
    return panels if panels <= ACROSS else min(ACROSS, -(-panels // 2))


def _save(figure: Figure, out: Path) -> None:
    """Save the figure, with a legend if it shows values of the paper."""
    if any(line.get_marker() == PAPER["marker"] for axes in figure.axes for line in axes.get_lines()):
        (sign,) = plt.plot([], [], **PAPER)
        figure.legend([sign], ["the paper's value"], loc="outside upper right", fontsize=8)
    with atomic_write(out) as part:
        figure.savefig(part, dpi=DPI)
    plt.close(figure)
