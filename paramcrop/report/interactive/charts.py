"""The figures of a sweep as Plotly charts, which answer the mouse; each beside the picture that a print shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from paramcrop.report.interactive.style import ACROSS, COLORS, as_json, panels
from paramcrop.report.panels import Measure, Point, line_name, place_text, places_of
from paramcrop.report.plots import over_steps
from paramcrop.report.table import Row, Table
from paramcrop.settings.explain import show
from paramcrop.sweeps.trials import rounded

PANEL = 300  # pixels, height of a panel
LINE = 28  # pixels, height of a trial in a panel of labels
CHANCE = {"dash": "dot", "width": 1, "color": "#666666"}
PAPER = {"symbol": "diamond-open", "color": "black", "size": 9}


def trials_chart(rows: Sequence[Row], measures: Mapping[str, Measure]) -> str:
    """A panel for each measure with a line for each trial, as JSON for ``Plotly.newPlot``."""
    down = -(-len(measures) // ACROSS)
    figure = panels(list(measures), shared_yaxes=True)
    for i, measure in enumerate(measures.values()):
        place = {"row": i // ACROSS + 1, "col": i % ACROSS + 1}
        points = [(row.label, point) for row in rows if (point := measure.of(row)) is not None]
        figure.add_trace(_marks([p for _, p in points], [name for name, _ in points], "y", COLORS[0], ""), **place)
        _add_paper(figure, [(name, p) for name, p in points], "y", place)
        if measure.chance is not None:
            figure.add_vline(measure.chance, line=CHANCE, **place)
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_layout(showlegend=False, height=down * max(PANEL, LINE * len(rows) + 90))
    return as_json(figure)


def curves_chart(table: Table, measures: Mapping[str, Measure]) -> str:
    """A panel for each swept setting and measure, with a line for each combination of the other settings, as JSON."""
    cells = [(key, name) for key in table.space.params for name in measures]
    down = -(-len(cells) // ACROSS)
    figure = panels([name for _, name in cells])
    for i, (key, name) in enumerate(cells):
        _add_curves(figure, table, key, measures[name], {"row": i // ACROSS + 1, "col": i % ACROSS + 1})
    figure.update_layout(height=down * (PANEL + 60))
    return as_json(figure)


def _add_curves(figure: Any, table: Table, key: str, measure: Measure, place: dict[str, int]) -> None:
    places, lines = places_of(table, key), dict[str, list[tuple[float, Point]]]()
    for row in table.rows:
        point = measure.of(row)
        if point is not None and key in row.record.values:
            where = places[place_text(row.record.values[key])]
            lines.setdefault(line_name(row.record.values, key), []).append((where, point))
    for i, (name, points) in enumerate(lines.items()):
        points.sort(key=lambda one: one[0])
        marks = _marks([p for _, p in points], [x for x, _ in points], "x", COLORS[i % len(COLORS)], name)
        figure.add_trace(marks, **place)
        _add_paper(figure, points, "x", place)
    if measure.chance is not None:
        figure.add_hline(measure.chance, line=CHANCE, **place)
    swept = table.space.params[key]
    ticks: dict[str, Any] = {"type": "log"} if swept.loguniform else {}
    if swept.listed:
        shown = [value for value in swept.listed if place_text(value) in places]
        ticks = {"tickvals": [places[place_text(v)] for v in shown], "ticktext": [show(rounded(v)) for v in shown]}
    figure.update_xaxes(title_text=key, **ticks, **place)


def _marks(points: Sequence[Point], places: Sequence[Any], axis: str, color: str, name: str) -> Any:
    """Values with their intervals over seeds, along ``axis``; the seeds are told on hovering."""
    values = [p.value for p in points]
    halves = {"type": "data", "array": [p.half or 0.0 for p in points], "thickness": 1.2}
    told = [", ".join(f"{v:.4g}" for v in p.values) for p in points]
    across = {"y": values, "x": list(places), "error_y": halves}
    if axis == "y":
        across = {"x": values, "y": list(places), "error_x": halves}
    return go.Scatter(
        **across,
        mode="markers" if axis == "y" else "lines+markers",
        marker={"color": color, "size": 8},
        name=name,
        legendgroup=name,
        customdata=told,
        hovertemplate="%{x}, %{y}<br>seeds: %{customdata}<extra>" + name + "</extra>",
        showlegend=bool(name),
    )


def _add_paper(figure: Any, points: Sequence[tuple[Any, Point]], axis: str, place: dict[str, int]) -> None:
    """The paper's values, where it has some."""
    kept = [(where, p.paper) for where, p in points if p.paper is not None]
    if not kept:
        return
    places, values = [where for where, _ in kept], [value for _, value in kept]
    x, y = (values, places) if axis == "y" else (places, values)
    marks = {"mode": "markers", "marker": PAPER, "name": "the paper's value", "legendgroup": "paper"}
    figure.add_trace(go.Scatter(x=x, y=y, **marks, showlegend=False), **place)


def training_chart(runs: Mapping[str, Sequence[Path]], frame: str) -> str:
    """Centre distance and IoU during training, mean and range over the seeds of each trial, as JSON.

    Args:
        runs: label of a trial -> folders of its runs.
        frame: "crop" or "video"; see ``plots.plot_figure5``.
    """
    measured = {"crop": "crop", "video": "source"}[frame]
    figure = panels(["centre distance", "IoU"], columns=2)
    for i, (label, folders) in enumerate(runs.items()):
        for column, name in enumerate(("distance", "iou"), 1):
            steps, values = over_steps(folders, f"{measured}_{name}")
            for trace in _band(steps, values, COLORS[i % len(COLORS)], label, column == 1):
                figure.add_trace(trace, row=1, col=column)
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(height=PANEL + 140, hovermode="x unified")
    return as_json(figure)


def _band(steps: Sequence[int], values: np.ndarray, color: str, label: str, named: bool) -> list[Any]:
    """The mean over runs as a line, and their range around it."""
    line = {"x": steps, "legendgroup": label, "line": {"color": color}}
    mean = go.Scatter(y=values.mean(0).round(5), name=label, showlegend=named, mode="lines", **line)
    if len(values) < 2:
        return [mean]
    edge = {"mode": "lines", "showlegend": False, "hoverinfo": "skip", "x": steps, "legendgroup": label}
    low = go.Scatter(y=values.min(0).round(5), line={"width": 0}, **edge)
    filled = f"rgba({', '.join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))}, 0.2)"
    return [
        low,
        go.Scatter(y=values.max(0).round(5), line={"width": 0}, fill="tonexty", fillcolor=filled, **edge),
        mean,
    ]
