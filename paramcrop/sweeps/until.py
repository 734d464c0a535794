"""Seeds are added to a comparison until it is resolved: a sequential test that may be looked at after every seed.

The two trials of a pair are trained with the same seeds, and the test is of the differences by seed, taken as normal
with unknown mean and variance. It compares "the mean is 0" with "the mean, in standard deviations, is normal around 0
with variance ``G``" by their Bayes factor, where the variance has its right Haar prior (the t-test of Rouder et al.
2009 with a normal prior; Gönen et al. 2005). Under the first hypothesis this factor is a martingale that starts at 1,
whatever the variance (Hendriksen, de Heide and Grünwald 2021; Pérez-Ortiz et al. 2024), so by Ville's inequality it
ever reaches 1/α with a chance of at most α, however often one looks and whatever the reason to stop. With several
pairs, each has α divided by their number. The test is about seeds: a larger test set is another question.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from paramcrop.errors import ConfigError
from paramcrop.settings.explain import nearest
from paramcrop.sweeps.objective import Goal, goal_of, goals, seed_values
from paramcrop.sweeps.parts import Objective
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import grid, make_trial

ALPHA = 0.05  # the chance that any pair without a difference is ever called resolved
G = 4.0  # variance of the difference, in standard deviations between seeds, if there is one


class Standing(NamedTuple):
    """What is known of a pair.

    Attributes:
        a, b: labels. seeds: the seeds that both have. value: mean of a - b over them.
        half: half of an interval that holds at all looks at once; infinite with few seeds.
    """

    a: str
    b: str
    seeds: int
    value: float
    half: float

    @property
    def resolved(self) -> bool:
        return abs(self.value) > self.half

    def show(self) -> str:
        """ "a - b: +3.1 ± 2.0 % after 5 seeds, resolved"."""
        half = f" ± {100 * self.half:.1f}" if math.isfinite(self.half) else " ± unknown"
        end = f"{self.seeds} seed{'' if self.seeds == 1 else 's'}, {'' if self.resolved else 'not '}resolved"
        return f"{self.a} - {self.b}: {100 * self.value:+.1f}{half} % after {end}"


def half_width(differences: Sequence[float], alpha: float) -> float:
    """Half the interval around the mean of differences that holds at every look with a chance of 1 - ``alpha``.

    It has those means whose Bayes factor is below 1/alpha: |mean - value| <= t sd / sqrt(n). With B = 1 + n G and
    r = (sqrt(B) / alpha)^(2/n), the factor reaches 1/alpha at t² = (n - 1) (r - 1) / (1 - r / B).

    Returns:
        Infinity while no t reaches 1/alpha, and with fewer than two differences.
    """
    n = len(differences)
    if n < 2:
        return math.inf
    b = 1 + n * G
    r = (math.sqrt(b) / alpha) ** (2 / n)
    if r >= b:
        return math.inf
    return math.sqrt((n - 1) * (r - 1) / (1 - r / b) / n) * statistics.stdev(differences)


def standing(a: str, b: str, of_a: Mapping[int, float], of_b: Mapping[int, float], alpha: float) -> Standing:
    """The standing of a pair from the value of each seed."""
    shared = sorted(of_a.keys() & of_b.keys())
    differences = [of_a[seed] - of_b[seed] for seed in shared]
    value = statistics.fmean(differences) if differences else math.nan
    return Standing(a, b, len(shared), value, half_width(differences, alpha))


def standings(
    pairs: Sequence[tuple[str, str]], goal: Goal, results: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[Standing]:
    """The standing of each pair.

    Args:
        results: label -> the results of that trial.
    """
    values = {label: seed_values(goal, of) for label, of in results.items()}
    return [standing(a, b, values.get(a, {}), values.get(b, {}), ALPHA / len(pairs)) for a, b in pairs]


def widest(found: Sequence[Standing], most: int) -> Standing | None:
    """The unresolved pair with the widest interval, of those with fewer than ``most`` seeds; None: there is none."""
    left = [one for one in found if not one.resolved and one.seeds < most]
    return max(left, key=lambda one: (one.half, -one.seeds), default=None)


def check_until(space: Space) -> None:
    """Raises:
    ConfigError: a pair of ``until`` names no trial, or its metric is none of the space's.
    """
    if space.until is None:
        return
    if not until_goal(space).protocol:
        raise ConfigError(f"until.metric must be a metric of a task, but is {space.until.metric!r}")
    labels = [make_trial(space, values).label for values in grid(space)]
    for name in (label for pair in space.until.resolved for label in pair):
        if name not in labels:
            raise ConfigError(f"until.resolved must name trials, but {name!r} is none{nearest(name, labels)}")


def until_goal(space: Space) -> Goal:
    """The metric by which the pairs of ``until`` are compared."""
    metric = space.until.metric if space.until else ""
    return goal_of(space, Objective(metric=metric)) if metric else goals(space)[0]
