"""Panels of a sweep's pictures: a number of each trial over a swept setting, or beside the labels of the trials."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, PercentFormatter
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as draw

from paramcrop.evaluation.statistics import noise_share
from paramcrop.report.facts import Spread, final_metric
from paramcrop.report.interactive.search_charts import front_chart, search_chart
from paramcrop.report.plots import as_spelt
from paramcrop.report.table import Row, Table, Task, is_of
from paramcrop.settings.explain import show
from paramcrop.storage.files import atomic_write
from paramcrop.sweeps.objective import Goal, goals
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.study import current_study
from paramcrop.sweeps.trials import rounded
from paramcrop.sweeps.values import is_number

matplotlib.use("Agg")


MAX_LINES = 6  # lines in a panel; more are drawn as points
WRAP = 34  # characters per line of a label
SEEDS: dict[str, Any] = {"marker": ".", "ls": "", "color": "black", "ms": 4, "zorder": 5}
CHANCE: dict[str, Any] = {"ls": ":", "lw": 1, "color": "black", "alpha": 0.6}
PAPER: dict[str, Any] = {"marker": "D", "ls": "", "mfc": "none", "mec": "black", "ms": 6, "zorder": 4}


class Point(NamedTuple):
    """A number of a trial: ``value`` with ``half`` its interval (None: too few seeds), and the value of each seed."""

    value: float
    half: float | None
    values: tuple[float, ...]
    paper: float | None = None


class Measure(NamedTuple):
    """The number that a panel shows for each trial, and its value by chance, if known."""

    of: Callable[[Row], Point | None]
    chance: float | None = None


def main_metric(task: Task) -> Measure:
    """A task's main metric in %. The chance level of top-1 metrics is one over the number of classes."""

    def of(row: Row) -> Point | None:
        cell = row.cells.get((task.name, task.metrics[0]))
        if cell is None:
            return None
        half, paper = (None if v is None else 100 * v for v in (cell.mean.half, cell.paper))
        return Point(100 * cell.mean.value, half, tuple(100 * v for v in cell.mean.values), paper)

    return Measure(of, 100 * task.chance if task.metrics[0].endswith("@1") else None)


def at_end(name: str) -> Measure:
    """A metric of the runs' last logged step."""

    def of(row: Row) -> Point | None:
        spread: Spread | None = final_metric(row.runs, name)
        return Point(*spread) if spread else None

    return Measure(of)


def over_key(axes: Axes, table: Table, key: str, measure: Measure) -> None:
    """Draw a measure over one swept setting, with a line for each combination of the others."""
    lines: dict[str, list[tuple[float, Point]]] = {}
    places = places_of(table, key)
    for row in table.rows:
        point = measure.of(row)
        if point is not None and key in row.record.values:
            name = line_name(row.record.values, key)
            lines.setdefault(name, []).append((places[place_text(row.record.values[key])], point))
    if len(lines) > MAX_LINES:
        _line(axes, [point for line in lines.values() for point in line], "C0", "none", "", 0.0)
    else:
        gap = 0.012 * (
            max(places.values()) - min(places.values())
        )  # shifts the lines so that error bars do not overlap
        for i, (name, points) in enumerate(lines.items()):
            shift = gap * (i - (len(lines) - 1) / 2)
            _line(axes, sorted(points, key=lambda p: p[0]), f"C{i}", "-", name, shift)
    if measure.chance is not None:
        axes.axhline(measure.chance, **CHANCE)
    _ticks(axes, table.space, key, places)
    axes.set_xlabel(_name(table.space, key))
    axes.grid(alpha=0.3)


def line_name(values: Mapping[str, Any], key: str) -> str:
    """The settings besides ``key``, which a line over ``key`` shares: "layers=2, lower=0.1"."""
    others = {k: v for k, v in values.items() if k != key}
    return ", ".join(f"{k.rpartition('.')[2]}={show(rounded(v))}" for k, v in others.items())


def _line(axes: Axes, points: Sequence[tuple[float, Point]], color: str, style: str, label: str, shift: float) -> None:
    places, values = [x + shift for x, _ in points], [point.value for _, point in points]
    axes.plot(places, values, ls=style, marker="o", color=color, label=label, zorder=3)
    for x, (_, point) in zip(places, points, strict=True):
        if point.half is not None:
            axes.errorbar(x, point.value, point.half, color=color, capsize=3, zorder=3)
        elif len(point.values) > 1:
            axes.plot([x] * len(point.values), point.values, **SEEDS)
        if point.paper is not None:
            axes.plot(x, point.paper, **PAPER)


def places_of(table: Table, key: str) -> dict[str, float]:
    """Text of a value -> its position on the axis: the value if all are numbers, else 0, 1, 2, …"""
    values = [row.record.values[key] for row in table.rows if key in row.record.values]
    if all(map(is_number, values)):
        return {place_text(value): float(value) for value in values}
    return {text: float(i) for i, text in enumerate(dict.fromkeys(map(place_text, values)))}


def place_text(value: Any) -> str:
    """The text of a value; equal for 1 and 1.0."""
    return str(float(value) if is_number(value) else value)


def _ticks(axes: Axes, space: Space, key: str, places: Mapping[str, float]) -> None:
    swept = space.params[key]
    if swept.loguniform:
        axes.set_xscale("log")
        plain_ticks(axes)
    elif swept.listed:
        shown = [value for value in swept.listed if place_text(value) in places]
        axes.set_xticks([places[place_text(value)] for value in shown], [show(rounded(value)) for value in shown])
        margin = 0.05 * ((max(places.values()) - min(places.values())) or 1.0)
        axes.set_xlim(min(places.values()) - margin, max(places.values()) + margin)


def plain_ticks(axes: Axes) -> None:
    """Write the numbers of a logarithmic axis without formulas, which ``as_spelt`` turns off."""
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter())


def _name(space: Space, key: str) -> str:
    """The key, and the settings derived from it."""
    derived = [f"{name} = {text}" for name, text in space.derived.items() if key in text]
    return key + (f"\n({', '.join(derived)})" if derived else "")


def by_label(axes: Axes, rows: Sequence[Row], measure: Measure, labelled: bool) -> None:
    """Draw a measure of each trial in its own line, the first on top; a dashed line marks the first trial's value."""
    points = [measure.of(row) for row in rows]
    for y, point in enumerate(points):
        if point is None:
            continue
        if point.half is not None:
            axes.errorbar(point.value, y, xerr=point.half, color="C0", capsize=3, zorder=3)
        elif len(point.values) > 1:
            axes.plot(point.values, [y] * len(point.values), **SEEDS)
        axes.plot(point.value, y, "o", color="C0", zorder=3)
        if point.paper is not None:
            axes.plot(point.paper, y, **PAPER)
    if measure.chance is not None:
        axes.axvline(measure.chance, **CHANCE)
    if points and points[0] is not None:
        axes.axvline(points[0].value, color="C0", ls="--", lw=1, alpha=0.6)
    texts = [
        textwrap.fill(row.label, WRAP) + ("" if p else f" ({row.record.state})")
        for row, p in zip(rows, points, strict=True)
    ]
    axes.set_yticks(range(len(rows)), texts if labelled else [""] * len(rows), fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(alpha=0.3)


# For importances. With fewer trials, or a smaller share as "the best", a setting without effect often ranks first.
MIN_TRIALS, BEST = 12, 1 / 3
DPI = 110


def draw_search(table: Table, sweep: Path, folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Draw the pictures of a search -> files, captions and charts; there are none with fewer than two trials."""
    study, aims = current_study(sweep), goals(table.space)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if study else []
    if study is None or len(complete) < 2 or len(study.directions) != len(aims):
        return
    if len(aims) == 2:
        file = folder / "front.png"
        names = [goal.name for goal in aims]
        _draw(lambda: draw.plot_pareto_front(study, target_names=names), file, *(bool(goal.protocol) for goal in aims))
        caption = "The trials by both objectives; no trial is better in both than one of the front (red)."
        yield file, caption, front_chart(study, [(goal.plain, bool(goal.protocol)) for goal in aims])
    for i, goal in enumerate(aims):
        yield from _draw_goal(table, study, goal, i, folder)


def _draw_goal(table: Table, study: optuna.Study, goal: Goal, i: int, folder: Path) -> Iterator[tuple[Path, str, str]]:
    """The pictures of the ``i``-th objective."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    suffix, percent = str(i + 1) if len(study.directions) > 1 else "", bool(goal.protocol)

    def target(trial: FrozenTrial) -> float:
        return float(trial.values[i])

    named: dict[str, Any] = {"target": target, "target_name": goal.name}

    def chart(kind: str, **options: Any) -> str:
        return search_chart(kind, study, goal.plain, percent, **{"target": target} | options)

    file = folder / f"slice{suffix}.png"
    _draw(lambda: draw.plot_slice(study, **named), file, y_percent=percent)
    caption = f"{goal.name} over each swept setting, {len(complete)} trials; later trials are darker."
    yield file, caption, chart("slice")
    file = folder / f"parallel{suffix}.png"
    _draw(lambda: draw.plot_parallel_coordinate(study, **named), file)
    yield file, f"All settings of each trial; a line is a trial, coloured by {goal.name}.", chart("parallel")
    if len(set(map(target, complete))) > 1 and len(complete) >= MIN_TRIALS:
        file = folder / f"importance{suffix}.png"
        evaluator = _quiet(lambda: PedAnovaImportanceEvaluator(target_quantile=BEST))
        sign = -1 if goal.mode == "max" else 1  # where a target is given, PED-ANOVA takes small values for the best
        signed: dict[str, Any] = {"target": lambda trial: sign * target(trial), "evaluator": evaluator}
        _draw(lambda: draw.plot_param_importances(study, target_name=goal.name, **signed), file)
        caption = f"How much each setting decides which trials are in the best third by {goal.name} (PED-ANOVA)."
        caption = " ".join(filter(None, (caption, seed_noise(table, goal))))
        yield file, caption, _quiet(lambda: chart("importance", **signed))
    file = folder / f"history{suffix}.png"
    _draw(lambda: draw.plot_optimization_history(study, **named), file, y_percent=percent)
    yield file, f"{goal.name} of every trial, and the best value so far.", chart("history")


def seed_noise(table: Table, goal: Goal) -> str:
    """How much of the differences between the trials in an objective is due to their seeds, in a sentence."""
    if not goal.protocol:
        return ""
    task = next((task for task in table.tasks if is_of(task, goal)), None)
    cells = [row.cells.get((task.name, goal.metric)) for row in table.rows] if task else []
    share = noise_share([cell.mean.values for cell in cells if cell is not None])
    if share is None:
        return "How much of it is noise is unknown: that needs two or more seeds for each trial."
    return f"Seeds alone explain {100 * share:.0f} % of the variance between the trials."


def _quiet(call: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "PedAnovaImportanceEvaluator computes")  # our target has the right sign
        warnings.filterwarnings("ignore", "Attempting to set identical")  # axis limits of a setting with a single value
        return call()


def _draw(call: Callable[[], Any], out: Path, x_percent: bool = False, y_percent: bool = False) -> None:
    """Save the figure that a call draws, and undo the global style that Optuna sets."""
    with plt.rc_context(), as_spelt():
        drawn = _quiet(call)
        figure: Figure = drawn.flat[0].figure if hasattr(drawn, "flat") else drawn.figure
        figure.suptitle("")
        for axes in figure.axes[: -1 if len(figure.axes) > 1 else None]:  # the last one is the colour bar
            _plain(axes)
        for axis, percent in ((figure.axes[0].xaxis, x_percent), (figure.axes[0].yaxis, y_percent)):
            if percent:
                axis.set_major_formatter(PercentFormatter(1.0, decimals=1, symbol=""))
        with atomic_write(out) as part:
            figure.savefig(part, dpi=DPI, bbox_inches="tight")
        plt.close(figure)


def _plain(axes: Axes) -> None:
    """Give the axes the style of the other pictures, and break long names of settings at the dot."""
    for place in ("left", "center"):
        axes.set_title("", loc=place)
    if axes.get_xscale() == "log":
        plain_ticks(axes)
    axes.set_facecolor("white")
    axes.grid(color="#dddddd")
    axes.set_xlabel(axes.get_xlabel().replace(".", ".\n"), fontsize=10)
    if axes.get_legend():
        axes.legend(loc="best", fontsize=8)
