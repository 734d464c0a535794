"""What Optuna draws of a search: the objective over each setting, their importances, how the search went."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState
from optuna.visualization import matplotlib as draw

from paramcrop.sweeps.objective import objective_parts
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.study import FILE, storage, study_name
from paramcrop.sweeps.whole import whole

# Importances: fewer trials, or fewer of them as "the best", too often name a setting that does nothing.
LEAST_TRIALS, BEST = 12, 1 / 3
DPI = 110


def draw_search(space: Space, sweep: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """Each picture and what it shows; none of a search with fewer than two objectives."""
    study = _study(space, sweep)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if study else []
    if study is None or len(complete) < 2:
        return
    dataset, protocol, metric = objective_parts(space)
    name = f"{dataset}/{protocol} {metric}".lstrip("/") + " (%)"
    _draw(lambda: draw.plot_slice(study, target_name=name), folder / "slice.png", percent=True)
    yield folder / "slice.png", f"The objective over each swept setting, {len(complete)} trials; later ones are darker."
    if len({trial.value for trial in complete}) > 1 and len(complete) >= LEAST_TRIALS:
        evaluator = _quiet(lambda: PedAnovaImportanceEvaluator(target_quantile=BEST))
        _draw(lambda: draw.plot_param_importances(study, evaluator=evaluator), folder / "importance.png")
        yield folder / "importance.png", "How much each setting says of which trials are in the best third (PED-ANOVA)."
    _draw(lambda: draw.plot_optimization_history(study, target_name=name), folder / "history.png", percent=True)
    yield folder / "history.png", "The search: every trial's objective, and the best so far."


def _study(space: Space, sweep: Path) -> optuna.Study | None:
    """The sweep's study, if it has one; nothing is written."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not (sweep / FILE).exists():
        return None
    try:
        return optuna.load_study(study_name=study_name(sweep.name, space), storage=storage(sweep))
    except KeyError:
        return None


def _quiet(call: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings(
            "ignore", "Attempting to set identical"
        )  # limits: a setting of which one value was tried
        return call()


def _draw(call: Callable[[], Any], out: Path, percent: bool = False) -> None:
    """Save what a call draws; it sets a style for all pictures, which is taken back."""
    with plt.rc_context():
        drawn = _quiet(call)
        figure: Figure = drawn.flat[0].figure if hasattr(drawn, "flat") else drawn.figure
        figure.suptitle("")
        for axes in figure.axes[: -1 if len(figure.axes) > 1 else None]:  # the last is the bar of colours
            _plain(axes)
        if percent:
            figure.axes[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1, symbol=""))
        with whole(out) as part:
            figure.savefig(part, dpi=DPI, bbox_inches="tight")
        plt.close(figure)


def _plain(axes: Axes) -> None:
    """As the other pictures are; long names of settings side by side are broken at the dot."""
    for place in ("left", "center"):
        axes.set_title("", loc=place)
    axes.set_facecolor("white")
    axes.grid(color="#dddddd")
    axes.set_xlabel(axes.get_xlabel().replace(".", ".\n"), fontsize=10)
    if axes.get_legend():
        axes.legend(loc="best", fontsize=8)
