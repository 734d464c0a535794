"""The sequential rule that adds seeds: its error at every look, its power, and which pair it serves next."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import t as student

from paramcrop.errors import ConfigError
from paramcrop.sweeps.objective import Goal
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.until import ALPHA, G, Standing, check_until, half_width, standing, standings, widest

GOAL = Goal("", "validation-retrieval", "R@1", "max")
SPACE: dict[str, Any] = {"question": "?", "params": {"cropper.lower": [0.1, 0.2, 0.3]}}


def bayes_factor(t: float, n: int) -> float:
    """As in the docstring of the module, to compare with."""
    nu, b = n - 1, 1 + n * G
    return float(b**-0.5 * ((1 + t**2 / nu) / (1 + t**2 / (nu * b))) ** ((nu + 1) / 2))


@pytest.mark.parametrize("n", [4, 6, 10, 40])
def test_the_interval_ends_where_the_bayes_factor_is_one_over_alpha(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.0, 2.0, n).tolist()
    half = half_width(differences, ALPHA)
    t = half * math.sqrt(n) / float(np.std(differences, ddof=1))
    assert bayes_factor(t, n) == pytest.approx(1 / ALPHA)


@pytest.mark.parametrize("n", [2, 5, 10])
def test_without_a_difference_the_bayes_factor_is_one_on_average(n: int) -> None:
    """So it is a fair bet against the hypothesis at every number of seeds."""
    mean, _ = quad(lambda t: bayes_factor(t, n) * student.pdf(t, n - 1), -math.inf, math.inf)
    assert mean == pytest.approx(1)


def looks(differences: np.ndarray, alpha: float) -> np.ndarray:
    """For each row of differences, the number of seeds at which it is first called resolved; 0: never."""
    rows, most = differences.shape
    first = np.zeros(rows, int)
    for n in range(2, most + 1):
        unit = half_width([-1.0, 1.0] * (n // 2) + [0.0] * (n % 2), alpha)
        scale = unit / float(np.std([-1.0, 1.0] * (n // 2) + [0.0] * (n % 2), ddof=1))
        seen = differences[:, :n]
        resolved = np.abs(seen.mean(1)) > scale * seen.std(1, ddof=1)
        first = np.where((first == 0) & resolved, n, first)
    return first


@pytest.mark.parametrize("most", [10, 100])
def test_without_a_difference_it_is_rarely_resolved_however_often_one_looks(most: int) -> None:
    differences = np.random.default_rng(1).normal(size=(20_000, most))
    error = float(np.mean(looks(differences, ALPHA) > 0))
    assert error <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / 20_000)
    # A t-test of 95 % at each look is wrong far more often.
    wrong = np.zeros(20_000, bool)
    for n in range(3, most + 1):
        seen = differences[:, :n]
        wrong |= np.abs(seen.mean(1)) > student.ppf(0.975, n - 1) * seen.std(1, ddof=1) / math.sqrt(n)
    assert wrong.mean() > 2 * ALPHA
    print(f"\n{most} looks: resolved without a difference {100 * error:.1f} %, by t-tests {100 * wrong.mean():.0f} %")


def test_a_clear_difference_is_resolved_with_few_seeds() -> None:
    for effect, within, share in ((3.0, 8, 0.8), (2.0, 10, 0.8)):
        first = looks(np.random.default_rng(2).normal(effect, 1.0, size=(4000, within)), ALPHA)
        assert np.mean(first > 0) >= share, (effect, np.mean(first > 0))


def test_few_seeds_say_nothing() -> None:
    assert half_width([], ALPHA) == half_width([0.5], ALPHA) == half_width([0.5, 0.6], ALPHA) == math.inf
    assert not standing("a", "b", {0: 0.9, 1: 0.9}, {0: 0.1, 1: 0.1}, ALPHA).resolved


def test_a_pair_is_compared_over_the_seeds_that_both_have() -> None:
    of_a, of_b = {seed: 0.5 + 0.01 * seed for seed in range(8)}, dict.fromkeys(range(6), 0.2)
    found = standing("a", "b", of_a, of_b, ALPHA)
    assert (found.seeds, found.resolved) == (6, True) and found.value == pytest.approx(0.325)
    assert found.show().startswith("a - b: +32.5 ± ") and found.show().endswith("% after 6 seeds, resolved")


def test_the_widest_interval_gets_the_next_seed() -> None:
    pairs = [
        Standing("a", "b", 5, 0.3, 0.1),  # resolved
        Standing("a", "c", 5, 0.1, 0.2),
        Standing("a", "d", 4, 0.1, 0.3),
        Standing("b", "d", 10, 0.1, 0.9),  # has as many as it may have
    ]
    chosen = widest(pairs, 10)
    assert chosen is not None and chosen.b == "d" and chosen.a == "a"
    assert widest(pairs[:1] + pairs[3:], 10) is None


def test_standings_come_from_results_and_several_pairs_share_the_error() -> None:
    def result(seed: int, value: float) -> dict[str, Any]:
        rows = [{"metric": "R@1", "value": value, "n": 10, "of": 10}]
        facts = {"subject": "run", "dataset": "d", "splits": ["train", "test"], "pretraining_seed": seed, "seed": 0}
        return facts | {"protocol": "validation-retrieval[size=3]", "rows": rows}

    results = {name: [result(s, base + 0.01 * s * s) for s in range(6)] for name, base in (("a", 0.1), ("b", 0.4))}
    results["b"][0]["rows"][0]["value"] += 0.02
    (one,) = standings([("a", "b")], GOAL, results)
    two = standings([("a", "b"), ("a", "c")], GOAL, results)
    assert one.seeds == 6 and one.value == pytest.approx(-0.3 - 0.02 / 6)
    assert two[0].half > one.half and two[1].seeds == 0 and math.isinf(two[1].half)


@pytest.mark.parametrize(
    ("until", "message"),
    [
        ({"resolved": ["lower=0.1", "lower=0.4"]}, "until.resolved must name trials, but 'lower=0.4' is none; the"),
        ({"resolved": ["lower=0.1", "lower=0.2"], "metric": "gpu_hours"}, "until.metric must be a metric of a task"),
        ({"resolved": ["lower=0.1", "lower=0.2"], "metric": "knn"}, "objective.metric must be of one of validation"),
    ],
)
def test_a_comparison_of_what_there_is_not_is_one_line(until: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_until(Space.model_validate(SPACE | {"until": until}))
    assert str(caught.value).startswith(message)


def test_seeds_follow_those_of_the_space() -> None:
    space = Space.model_validate(SPACE | {"seeds": [3, 1], "extra_seeds": {"x": 4, "y": 1}})
    assert (space.seeds_of("x"), space.seeds_of("y"), space.seeds_of("z")) == ((3, 1, 4, 5), (3, 1), (3, 1))
