"""Optuna's own charts of a search, in the style of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna import visualization

from paramcrop.report.interactive.style import as_json

CHARTS: dict[str, Callable[..., Any]] = {
    "slice": visualization.plot_slice,
    "parallel": visualization.plot_parallel_coordinate,
    "importance": visualization.plot_param_importances,
    "history": visualization.plot_optimization_history,
}


def search_chart(kind: str, study: optuna.Study, name: str, percent: bool = True, **options: Any) -> str:
    """A chart of the study as JSON.

    Args:
        kind: of ``CHARTS``.
        name: what the objective is called. percent: whether its values are shares.
    """
    figure = CHARTS[kind](study, target_name=name, **options)
    if percent and kind in ("slice", "history"):
        figure.update_yaxes(tickformat=".1%")
    figure.update_layout(title=None)
    return as_json(figure)


def front_chart(study: optuna.Study, axes: Sequence[tuple[str, bool]]) -> str:
    """The Pareto front of two objectives as JSON.

    Args:
        axes: of each objective its name, and whether its values are shares.
    """
    figure = visualization.plot_pareto_front(study, target_names=[name for name, _ in axes])
    for update, (_, percent) in zip((figure.update_xaxes, figure.update_yaxes), axes, strict=True):
        update(tickformat=".1%" if percent else None)
    figure.update_layout(title=None)
    return as_json(figure)
