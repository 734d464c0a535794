"""The Optuna study: suggestions, results, interruptions, and whether its search beats random search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from paramcrop.errors import ConfigError
from paramcrop.sweeps.samplers import make_sampler, sampler_name
from paramcrop.sweeps.space import Space, find_space, read_space, space_at
from paramcrop.sweeps.study import (
    TRIES,
    adopt,
    asked,
    best,
    current_study,
    distributions,
    drawn_values,
    end_unfinished,
    enqueue,
    known_values,
    number_of_cells,
    open_study,
    study_name,
    tell,
)
from paramcrop.sweeps.study import draw as draw_trial
from paramcrop.sweeps.trials import decode, grid

GRID = Space.model_validate({"question": "?", "params": {"cropper.lower": [0.1, 0.3], "policy": ["paramcrop", "none"]}})


def ask(study: optuna.Study, space: Space) -> tuple[optuna.Trial, dict[str, Any]]:
    trial = draw_trial(study, space)
    assert trial is not None
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
    tell(study, first, "done", [0.5])
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
        tell(study, study.ask(distributions(GRID)), state, [value])
    expected = [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.PRUNED, TrialState.FAIL]
    assert [trial.state for trial in study.get_trials()] == expected
    assert [trial.value for trial in best(study)] == [0.5]


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
            tell(study, trial, "done", [stand_in(values)])
            found.append(values)
        return found

    undisturbed = draw("a", ())
    assert len({str(values) for values in undisturbed}) == 14
    assert draw("b", (3, 7)) == undisturbed if search == "random" else draw("b", (3, 7))[:10] == undisturbed[:10]


CELLS: dict[str, Any] = {
    "question": "?",
    "params": {"cropper.noise": {"choice": ["normal", "uniform"]}, "cropper.layers": {"int": [1, 3]}},
    "samples": 6,
}


@pytest.mark.parametrize("search", ["random", "tpe", "gp", "qmc", "nsga2", "auto"])
def test_a_search_draws_every_cell_once_and_then_ends(tmp_path: Path, search: str) -> None:
    space = Space.model_validate(CELLS | {"search": search})
    study, found = open_study(tmp_path, "a", space), list[str]()
    for i in range(6):
        trial, values = ask(study, space)
        found.append(str(values))
        tell(study, trial, "done", [i / 10])
    assert len(set(found)) == 6 == number_of_cells(space)
    assert draw_trial(study, space) is None
    failed = study.get_trials(states=(TrialState.FAIL,))
    assert len(failed) <= 6 * TRIES


def test_a_repeat_does_not_repeat_for_ever(tmp_path: Path) -> None:
    """The seed of a draw once depended on the number of different values alone, so one repeat made all the next."""
    for seed in range(20):
        space = Space.model_validate(CELLS | {"search": "random", "sampler_seed": seed})
        study = open_study(tmp_path, f"a{seed}", space)
        assert len({str(ask(study, space)[1]) for _ in range(6)}) == 6


def test_samplers_that_keep_their_state_in_the_study_go_on_after_an_interruption(tmp_path: Path) -> None:
    params = {"cropper.lower": {"uniform": [0.0, 0.5]}, "cropper.lr": {"loguniform": [0.001, 0.1]}}
    space = Space.model_validate({"question": "?", "params": params, "search": "qmc", "samples": 8})
    drawn = list[float]()
    for _ in range(8):
        study = open_study(tmp_path, "a", space)  # as a new process does
        trial, values = ask(study, space)
        tell(study, trial, "done", [0.5])
        drawn.append(values["cropper.lower"])
    halves = [sum(low <= value < low + 0.25 for value in drawn[1:]) for low in (0.0, 0.25)]
    assert len(set(drawn)) == 8 and min(halves) >= 3  # a sequence fills the range evenly; the first is by chance


def test_a_sampler_without_its_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paramcrop.sweeps.samplers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"search=cmaes needs the package cmaes; install it with: pip install"):
        make_sampler(Space.model_validate(CELLS | {"search": "cmaes"}), 0)


def test_auto_chooses_by_the_space() -> None:
    numbers = {"params": {"cropper.lower": {"uniform": [0, 0.5]}}}
    two = {"objective": [{"metric": "validation R@1"}, {"metric": "gpu_hours", "mode": "min"}]}
    for fields, name in (({}, "tpe"), (numbers, "gp"), (two, "nsga2"), (numbers | {"samples": 500}, "tpe")):
        assert sampler_name(Space.model_validate(CELLS | {"search": "auto"} | fields)) == name


def test_two_objectives_have_a_front(tmp_path: Path) -> None:
    objective = [{"metric": "validation R@1"}, {"metric": "gpu_hours", "mode": "min"}]
    space = Space.model_validate(CELLS | {"search": "nsga2", "objective": objective})
    study = open_study(tmp_path, "a", space)
    for values in ([0.5, 2.0], [0.4, 1.0], [0.3, 3.0], [0.6, math.nan]):
        tell(study, ask(study, space)[0], "done", values)
    assert [trial.values for trial in best(study)] == [[0.5, 2.0], [0.4, 1.0]]
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == 3


def test_another_question_about_the_same_runs_is_a_study_of_its_own_that_is_told_what_is_known(tmp_path: Path) -> None:
    space = Space.model_validate(CELLS | {"search": "random", "samples": 3})
    least = space.model_validate(CELLS | {"search": "random", "samples": 3, "objective": {"mode": "min"}})
    other = space.model_validate(CELLS | {"search": "random", "samples": 3, "set": {"optim.lr": 0.1}})
    first, second, third = (study_name("a", one, "data", {}) for one in (space, least, other))
    assert first != second and first.rpartition("-")[0] == second.rpartition("-")[0] != third.rpartition("-")[0]
    assert study_name("a", space, "other data", {}) != first != study_name("a", space, "data", {"made-up": "other"})
    study = open_study(tmp_path, first, space)
    values = [ask(study, space)[1] for _ in range(3)]
    assert known_values(tmp_path, second, least) == values and known_values(tmp_path, third, other) == []
    told = open_study(tmp_path, second, least)
    for _ in range(2):
        adopt(told, least, [(values[0], "done", [0.25]), (values[1], "pruned", [])])
    assert [trial.state for trial in told.get_trials()] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert told.best_value == 0.25 and told.direction.name == "MINIMIZE"
    asked(study, space)
    asked(told, least)
    current = current_study(tmp_path)
    assert current is not None and current.study_name == second


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
