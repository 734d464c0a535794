"""Means and differences of evaluation scores, with their uncertainty over pretraining seeds and test videos.

There are two sources of chance. Another *seed* gives another network. Another sample of test *videos* gives other
scores for the same network; a video in several test splits is one sample, so errors are clustered by video. The two
are crossed: every seed is tested on the same videos. The variance is estimated as the sum of the variance over seeds
and the variance over videos. The residual of a single score enters both, so the sum is never too small on average.
`docs/numbers` gives the estimators and a worked example.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

LEAST_SEEDS = 3  # for the interval of a mean
LEVEL = 0.95
Key = tuple[str, str]  # (test split, video)
Scores = dict[int, dict[Key, float]]  # seed -> each video's score in each test split
WITHOUT_SEED = ("pixels",)  # subjects that no seed changes


class Mean(NamedTuple):
    """A mean over seeds.

    Attributes:
        value: mean over seeds of each seed's mean. values: each seed's mean.
        half: half the 95 % t-interval of the mean over seeds; None with fewer than three.
        test_error: standard error due to the sample of test videos alone, see ``share_error``.
        n, of: scores that were read, and all scores, over the splits.
        videos: number of distinct test videos among the n. splits: number of test splits.
    """

    value: float
    values: tuple[float, ...]
    half: float | None
    test_error: float
    n: int
    of: int
    videos: int
    splits: int


class Difference(NamedTuple):
    """a - b of two printed means.

    Attributes:
        a, b: the means.
        half: half the 95 % interval over seeds and videos, or over videos alone if ``seeds`` is 1.
        seeds: the smaller of the two numbers of seeds; None if no seed changes either subject.
        resolved: whether the interval excludes 0 and covers the seeds; never with one seed.
    """

    a: float
    b: float
    half: float | None
    seeds: int | None
    resolved: bool

    @property
    def value(self) -> float:
        return self.a - self.b


def means(results: Sequence[Mapping[str, Any]]) -> dict[str, Mean]:
    """Results of one subject on one task -> metric -> its mean over seeds (see ``seed_of``)."""
    found = {}
    distinct = len({video for result in results for video in result.get("videos", ())})
    for metric in (row["metric"] for row in results[0]["rows"]):
        seeds: dict[int, list[dict[str, Any]]] = {}
        for result in results:
            row = next(row for row in result["rows"] if row["metric"] == metric)
            seeds.setdefault(seed_of(result), []).append(row | {"splits": result["splits"]})
        found[metric] = mean_of(seeds, distinct)
    return found


def seed_of(result: Mapping[str, Any]) -> int:
    """The seed that distinguishes one subject's results: a run's pretraining seed, or a baseline's own."""
    seed: int = result["pretraining_seed"] if result["subject"] == "run" else result["seed"]
    return seed


def mean_of(cells: Mapping[Any, Sequence[Mapping[str, Any]]], videos: int = 0) -> Mean:
    """The mean of ``cells``: seed -> its rows of one metric, for every split and evaluation seed.

    Splits are averaged within a seed first, because they share the pretraining and are not independent repeats. Each
    split is weighted by its number of videos, so that leave-one-out folds give the accuracy over all videos.

    Args:
        videos: number of distinct test videos; 0 if no video is in two splits.
    """
    values = tuple(sum(r["value"] * r["n"] for r in rows) / sum(r["n"] for r in rows) for rows in cells.values())
    value = sum(values) / len(values)
    first = {str(row["splits"]): row for row in next(iter(cells.values()))}.values()
    n, of = sum(row["n"] for row in first), sum(row["of"] for row in first)
    distinct = min(videos or n, n)
    return Mean(value, values, t_half(values), share_error(value, distinct), n, of, distinct, len(first))


def share_error(share: float, n: int) -> float:
    """Standard error of a share p of n independent videos: sqrt(p (1 - p) / n), but never 0.

    Near 0 and 1, where that formula is too small, it is the standard deviation of Jeffreys' posterior,
    Beta(np + ½, n(1 - p) + ½): the larger of the two is used.

    Args:
        share: in [0, 1]. n: at least 1.
    """
    a, b = n * share + 0.5, n * (1 - share) + 0.5
    jeffreys = math.sqrt(a * b / (n + 1) ** 2 / (n + 2))
    return max(math.sqrt(max(share * (1 - share), 0.0) / n), jeffreys)


def difference(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], metric: str) -> Difference | None:
    """The difference of two subjects' means on one task, paired by (split, video) and clustered by video.

    ``value`` is the difference of the printed means. A video's part in it is the sum, over its splits, of what its
    scores contribute to the two means; the variance over videos is that of these parts. The variance over seeds is the
    sum of both subjects'. The interval is Student's t with Satterthwaite's degrees of freedom.

    Returns:
        None if a result has no scores by video for this metric, or if the two share no test video.
    """
    if any(metric not in result["scores"] for result in (*a, *b)):
        return None
    of_a, of_b, scores_a, scores_b = means(a)[metric], means(b)[metric], scores_of(a, metric), scores_of(b, metric)
    if not set().union(*scores_a.values()) & set().union(*scores_b.values()):
        return None
    parts = _parts(scores_a, of_a.values)
    for video, part in _parts(scores_b, of_b.values).items():
        parts[video] = parts.get(video, 0.0) - part
    clusters = len(parts)
    variances = [(clusters / max(clusters - 1, 1) * sum(part**2 for part in parts.values()), clusters - 1)]
    seeded = [mean.values for results, mean in ((a, of_a), (b, of_b)) if results[0]["subject"] not in WITHOUT_SEED]
    seeds = min(map(len, seeded), default=None)
    if seeds is not None and seeds > 1:
        variances += [(statistics.variance(values) / len(values), len(values) - 1) for values in seeded]
    half = interval_half(variances)
    resolved = half is not None and seeds != 1 and abs(of_a.value - of_b.value) > half
    return Difference(of_a.value, of_b.value, half, seeds, resolved)


def scores_of(results: Iterable[Mapping[str, Any]], metric: str) -> Scores:
    """Seed -> (test split, video) -> score, averaged over the evaluation seeds of one pretraining."""
    found: dict[int, dict[Key, list[float]]] = {}
    for result in results:
        of_seed = found.setdefault(seed_of(result), {})
        for video, score in zip(result["videos"], result["scores"][metric], strict=True):
            of_seed.setdefault((result["splits"][1], video), []).append(score)
    return {seed: {key: statistics.fmean(each) for key, each in of.items()} for seed, of in found.items()}


def _parts(scores: Scores, values: Sequence[float]) -> dict[str, float]:
    """Video -> its contribution to the mean over seeds, minus that of a video with average scores; they sum to 0."""
    parts: dict[str, float] = {}
    for of_seed, value in zip(scores.values(), values, strict=True):
        for (_, video), score in of_seed.items():
            parts[video] = parts.get(video, 0.0) + (score - value) / len(of_seed) / len(scores)
    return parts


def interval_half(variances: Iterable[tuple[float, int]]) -> float | None:
    """Half the 95 % interval of a sum of independent estimates, each given as (variance, degrees of freedom).

    Satterthwaite (1946): the sum's degrees of freedom are (sum of variances)² / sum of (variance² / freedom).

    Returns:
        None if an estimate has no degree of freedom.
    """
    variances = list(variances)
    if any(freedom < 1 for _, freedom in variances):
        return None
    total = sum(variance for variance, _ in variances)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(variance**2 / freedom for variance, freedom in variances)
    return t_quantile(freedom) * math.sqrt(total)


def noise_share(groups: Sequence[Sequence[float]]) -> float | None:
    """The share in [0, 1] of the variance between the means of groups that the spread within the groups explains.

    Args:
        groups: the values of each subject, one for each seed.

    Returns:
        None with fewer than two groups of two or more values.
    """
    groups = [values for values in groups if len(values) > 1]
    if len(groups) < 2:
        return None
    between = statistics.variance([statistics.fmean(values) for values in groups])
    within = statistics.fmean(statistics.variance(values) / len(values) for values in groups)
    return min(1.0, within / between) if between else 1.0


def t_quantile(freedom: float) -> float:
    """The two-sided 95 % quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + LEVEL / 2))


def t_half(values: Sequence[float]) -> float | None:
    """Half the 95 % t-interval of the mean of independent values; None with fewer than three."""
    if len(values) < LEAST_SEEDS:
        return None
    return interval_half([(statistics.variance(values) / len(values), len(values) - 1)])
