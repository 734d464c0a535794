"""The Optuna study: suggestions, results, interruptions, and whether its search beats random search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from paramcrop.sweeps.space import Space, find_space, read_space, space_at
from paramcrop.sweeps.study import (
    best,
    distributions,
    drawn_values,
    end_unfinished,
    enqueue,
    make_sampler,
    open_study,
    tell,
)
from paramcrop.sweeps.trials import decode, grid

GRID = Space.model_validate({"question": "?", "params": {"cropper.lower": [0.1, 0.3], "policy": ["paramcrop", "none"]}})


def ask(study: optuna.Study, space: Space) -> tuple[optuna.Trial, dict[str, Any]]:
    study.sampler = make_sampler(space, len(drawn_values(study, space)))
    trial = study.ask(distributions(space))
    return trial, decode(space, trial.params)


def test_enqueued_cells_come_back_unchanged_and_in_order(tmp_path: Path) -> None:
    lists = GRID.model_validate(
        {"question": "?", "params": {"cropper.spatial_scale": [[0.3, 1.0], [0.5, 0.9]], "seed": [1, 2]}}
    )
    for i, space in enumerate((GRID, lists)):
        study = open_study(tmp_path, f"a{i}", space)
        enqueue(study, grid(space))
        assert [ask(study, space)[1] for _ in grid(space)] == grid(space)


def test_after_a_kill_every_unfinished_cell_comes_once(tmp_path: Path) -> None:
    study = open_study(tmp_path, "a", GRID)
    enqueue(study, grid(GRID))
    first, _ = ask(study, GRID)
    tell(study, first, "done", 0.5)
    ask(study, GRID)  # then the process is killed: one trial is running, two are waiting
    study = open_study(tmp_path, "a", GRID)
    assert end_unfinished(study) == 3
    enqueue(study, grid(GRID)[1:])
    assert [ask(study, GRID)[1] for _ in range(3)] == grid(GRID)[1:]
    states = [trial.state for trial in study.get_trials()]
    assert states.count(TrialState.WAITING) == 0 and states.count(TrialState.RUNNING) == 3
    assert drawn_values(study, GRID) == grid(GRID)


def test_every_way_to_end_ends_the_trial(tmp_path: Path) -> None:
    study = open_study(tmp_path, "a", GRID)
    ends = [("done", 0.5), ("done", math.nan), ("diverged", math.nan), ("pruned", math.nan), ("failed", math.nan)]
    for state, value in ends:
        tell(study, ask(study, GRID)[0], state, value)
    expected = [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.PRUNED, TrialState.FAIL]
    assert [trial.state for trial in study.get_trials()] == expected
    found = best(study)
    assert found is not None and found.value == 0.5


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_an_interrupted_search_draws_what_it_would_have_drawn(tmp_path: Path, search: str) -> None:
    space = space_at(read_space(find_space("crop_search")), search=search)

    def draw(name: str, cuts: tuple[int, ...]) -> list[dict[str, Any]]:
        found = []
        for i in range(14):
            study = open_study(tmp_path, name, space)
            if i in cuts:  # the process is killed after asking, and enqueues the same values again
                _, values = ask(study, space)
                study = open_study(tmp_path, name, space)
                end_unfinished(study)
                enqueue(study, [values])
            trial, values = ask(study, space)
            tell(study, trial, "done", stand_in(values))
            found.append(values)
        return found

    undisturbed = draw("a", ())
    assert len({str(values) for values in undisturbed}) == 14
    assert draw("b", (3, 7)) == undisturbed if search == "random" else draw("b", (3, 7))[:10] == undisturbed[:10]


def stand_in(values: Mapping[str, Any]) -> float:
    """A synthetic accuracy on crop_search's space, with its optimum near the paper's settings and some interaction."""
    lower, upper = values["cropper.lower"], values["cropper.upper"]
    space, time = values["cropper.spatial_scale[0]"], values["cropper.temporal_scale[0]"]
    rate = math.log10(values["cropper.lr"] / 0.004)
    bowl = (lower - 0.2) ** 2 + (upper - 0.8) ** 2 + (space - 0.5) ** 2 + (time - 0.4 - 0.5 * (space - 0.5)) ** 2
    sizes = abs(math.log2(values["cropper.noise_size"] / 32)) + abs(math.log2(values["cropper.hidden"] / 64))
    return float(0.6 - 0.5 * bowl - 0.05 * rate**2 - 0.01 * sizes)


def test_tpe_finds_better_crops_than_random_search_in_as_many_trials() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def best_of(search: str, seed: int) -> float:
        space = space_at(read_space(find_space("crop_search")), search=search, sampler_seed=seed)
        study = optuna.create_study(direction="maximize", sampler=make_sampler(space, 0))
        for i in range(40):
            study.sampler = make_sampler(space, i)
            trial = study.ask(distributions(space))
            study.tell(trial, stand_in(decode(space, trial.params)))
        return study.best_value

    wins = [best_of("tpe", seed) > best_of("random", seed) for seed in range(10)]
    assert sum(wins) >= 8, wins
