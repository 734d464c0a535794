"""Means, differences and their errors, against calculations by hand and by simulation."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paramcrop.evaluation.statistics import (
    Difference,
    difference,
    interval_half,
    mean_of,
    means,
    noise_share,
    scores_of,
    share_error,
    t_half,
)
from paramcrop.report.text import show_count, show_difference, show_mean


def rows(*values: tuple[float, int]) -> list[dict[str, Any]]:
    return [{"value": value, "n": n, "of": n + 1, "splits": i} for i, (value, n) in enumerate(values)]


def result(subject: str, seed: int, split: str, scores: dict[str, float], own: int = 0) -> dict[str, Any]:
    """One evaluation of one test split: video -> score."""
    n = len(scores)
    return {
        "subject": subject,
        "pretraining_seed": seed,
        "seed": own,
        "splits": ["train", split],
        "videos": list(scores),
        "scores": {"knn": list(scores.values())},
        "rows": [{"metric": "knn", "value": sum(scores.values()) / n, "n": n, "of": n}],
    }


def test_splits_are_averaged_within_a_seed_before_seeds() -> None:
    found = mean_of({0: rows((0.5, 4), (1.0, 4)), 1: rows((0.25, 4), (0.5, 4)), 2: rows((0.5, 4), (0.5, 4))})
    assert found.values == (0.75, 0.375, 0.5)
    assert found.value == pytest.approx(sum(found.values) / 3)
    assert found.half == pytest.approx(4.3027 * statistics.stdev(found.values) / math.sqrt(3), rel=1e-4)
    assert (found.n, found.of, found.videos, found.splits) == (8, 10, 8, 2)
    assert found.test_error == share_error(found.value, 8)


def test_folds_of_unequal_size_give_the_accuracy_over_all_videos() -> None:
    assert mean_of({0: rows((1.0, 5), (0.0, 7))}).value == pytest.approx(5 / 12)


def test_several_evaluations_of_one_split_do_not_make_more_videos() -> None:
    found = mean_of({0: rows((0.5, 4), (1.0, 4)) + rows((0.5, 4), (0.0, 4))})
    assert (found.value, found.n, found.of) == (0.5, 8, 10)


def test_fewer_than_three_seeds_have_no_interval() -> None:
    found = mean_of({0: rows((0.5, 4)), 1: rows((0.6, 4))})
    assert found.value == pytest.approx(0.55) and found.values == (0.5, 0.6) and found.half is None


@pytest.mark.parametrize(("n", "t"), [(3, 4.3027), (11, 2.2281), (12, 2.2010), (31, 2.0423), (61, 2.0003)])
def test_t_is_students(n: int, t: float) -> None:
    """Values of mean 0 and variance 1; the quantiles are those of any printed table."""
    values = [math.sqrt((n - 1) / 2), -math.sqrt((n - 1) / 2)] + [0.0] * (n - 2)
    assert t_half(values) == pytest.approx(t / math.sqrt(n), rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_the_error_of_a_share_is_the_usual_one_and_never_nothing(share: float) -> None:
    assert share_error(share, 20) > 0.02
    usual = math.sqrt(share * (1 - share) / 100_000)
    assert share_error(share, 100_000) == pytest.approx(usual, abs=1e-5)


def test_seeds_are_the_pretrainings_of_a_run_and_its_own_of_a_baseline() -> None:
    cells = [(0, 0, {"a": 1.0, "b": 0.0}), (0, 1, {"a": 1.0, "b": 1.0}), (1, 0, {"a": 0.0, "b": 0.0})]
    of_a_run, of_a_baseline = (
        means([result(subject, seed, "t", scores, own) for seed, own, scores in cells])["knn"].values
        for subject in ("run", "random-init")
    )
    assert of_a_run == (0.75, 0.0) and of_a_baseline == (0.25, 1.0)


def test_a_video_in_two_splits_has_a_score_in_each() -> None:
    """Official test splits overlap: the score in one split must not take the other's place."""
    results = [result("run", 0, "test1", {"x": 1.0, "y": 0.0}), result("run", 0, "test2", {"x": 0.0, "z": 1.0})]
    assert scores_of(results, "knn") == {
        0: {("test1", "x"): 1.0, ("test1", "y"): 0.0, ("test2", "x"): 0.0, ("test2", "z"): 1.0}
    }
    mean = means(results)["knn"]
    assert (mean.value, mean.n, mean.videos) == (0.5, 4, 3) and show_count(mean) == "4 of 4 (3 videos)"


def test_the_difference_is_that_of_the_printed_means_in_any_order_of_splits() -> None:
    rng = np.random.default_rng(0)
    splits = {"test1": range(60), "test2": range(40, 100), "test3": range(20, 80)}

    def of(name: str) -> list[dict[str, Any]]:
        """The same video is scored otherwise in each split: another classifier."""
        made = [{f"v{i}": float(rng.integers(2)) for i in videos} for videos in splits.values()]
        return [result("run", 0, split, scores) for split, scores in zip(splits, made, strict=True)]

    a, b = of("a"), of("b")
    found, turned = difference(a, b, "knn"), difference(a[::-1], b[::-1], "knn")
    assert found is not None and turned is not None
    assert found.value == means(a)["knn"].value - means(b)["knn"].value == pytest.approx(turned.value)
    assert found.half == pytest.approx(turned.half) and found.seeds == 1 and not found.resolved
    left, right = (float(show_mean(means(each)["knn"]).split()[0]) for each in (a, b))
    assert float(show_difference(found).split()[0]) == pytest.approx(left - right)


def test_one_seed_of_one_split_is_the_paired_t_of_any_textbook() -> None:
    a, b = {"x": 1.0, "y": 1.0, "z": 0.0}, {"x": 0.0, "y": 1.0, "z": 0.0}
    found = difference([result("run", 0, "t", a)], [result("run", 0, "t", b)], "knn")
    assert found is not None and found.value == pytest.approx(1 / 3)
    assert found.half == pytest.approx(4.3027 * statistics.stdev([1, 0, 0]) / math.sqrt(3), rel=1e-4)


def test_videos_that_one_subject_could_not_read_count_in_the_others_mean_alone() -> None:
    a, b = {"x": 1.0, "y": 1.0, "z": 0.0}, {"x": 0.0, "y": 1.0}
    found = difference([result("run", 0, "t", a)], [result("run", 0, "t", b)], "knn")
    assert found is not None and found.value == pytest.approx(2 / 3 - 1 / 2)


def test_the_interval_counts_seeds_and_videos() -> None:
    """Three seeds that differ and videos that do not, then the other way round."""
    videos = [f"v{i}" for i in range(40)]
    by_seed = [result("run", seed, "t", dict.fromkeys(videos, share)) for seed, share in enumerate((0.5, 0.6, 0.7))]
    flat = [result("run", seed, "t", dict.fromkeys(videos, 0.4)) for seed in range(3)]
    found = difference(by_seed, flat, "knn")
    assert found is not None and found.half == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
    assert found.value == pytest.approx(0.2) and not found.resolved
    scores = {video: float(i % 2) for i, video in enumerate(videos)}
    alike = difference([result("run", seed, "t", scores) for seed in range(3)], flat, "knn")
    assert alike is not None and alike.half == pytest.approx(
        2.0227 * statistics.stdev(scores.values()) / math.sqrt(40), rel=1e-4
    )


def test_a_subject_without_seeds_lacks_none() -> None:
    scores = {f"v{i}": float(i % 2) for i in range(40)}
    pixels = [result("pixels", 0, "t", dict.fromkeys(scores, 0.0))]
    runs = [result("run", seed, "t", scores) for seed in range(3)]
    found = difference(runs, pixels, "knn")
    assert found is not None and found.seeds == 3 and found.resolved
    one = difference(runs[:1], pixels, "knn")
    assert one is not None and one.seeds == 1 and not one.resolved and show_difference(one).endswith(" for this seed")


def test_satterthwaite() -> None:
    """Equal variances add their degrees of freedom; one that is nothing leaves the other's."""
    assert interval_half([(0.5, 5), (0.5, 5)]) == pytest.approx(2.2281, rel=1e-4)
    assert interval_half([(1.0, 2), (0.0, 1000)]) == pytest.approx(4.3027, rel=1e-4)
    assert interval_half([(1.0, 0)]) is None


def test_figures_are_shown_in_percent_with_their_errors() -> None:
    one, two, three = (mean_of({i: rows((0.5 + i / 10, 4)) for i in range(n)}) for n in (1, 2, 3))
    assert show_mean(one) == "50.0 [25.0]" and show_mean(two) == "55.0 (50.0, 60.0) [24.9]"
    assert show_mean(three) == "60.0 ± 24.8 [24.5]"
    assert show_difference(Difference(0.512, 0.5, 0.008, 3, True)) == "+1.2 ± 0.8"
    assert show_difference(Difference(0.497, 0.5, 0.011, 3, False)) == "-0.3 ± 1.1: not resolved"
    assert show_difference(Difference(0.6044, 0.5855, 0.011, 3, True)) == "+1.8 ± 1.1"  # 60.4 and 58.6, as printed


def example(rights: tuple[int, ...], method: int) -> list[dict[str, Any]]:
    """Seeds with so many of 300 videos right: the easiest ones, in an order that differs a little from seed to seed."""
    easy, found = np.random.default_rng(7).random(300), []
    for seed, right in enumerate(rights):
        own = easy + np.random.default_rng([seed, method]).random(300) / 4
        score = np.isin(np.arange(300), np.argsort(own)[:right])
        found.append(result("run", seed, "test", {f"v{i}": float(x) for i, x in enumerate(score)}))
    return found


def test_the_example_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "numbers" / "meaning.md").read_text()
    ours, random = example((176, 183, 180), 1), example((171, 175, 170), 2)
    for runs in (ours, random):
        assert f"`{show_mean(means(runs)['knn'])}`" in text
    for seeds in (3, 1):
        found = difference(ours[:seeds], random[:seeds], "knn")
        assert found is not None and f"`{show_difference(found)}`" in text


def drawn(rng: np.random.Generator, chance: np.ndarray, seeds: int, deviation: float) -> list[dict[str, Any]]:
    """A method whose seeds deviate from its mean, tested on two splits that share a third of the videos."""
    found = []
    for seed in range(seeds):
        right = rng.random(len(chance)) < np.clip(chance + rng.normal(0, deviation), 0, 1)
        for split, part in (("test1", slice(0, 2 * len(chance) // 3)), ("test2", slice(len(chance) // 3, None))):
            names = range(*part.indices(len(chance)))
            found.append(
                result("run", seed, split, {f"v{i}": float(x) for i, x in zip(names, right[part], strict=True)})
            )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize("deviation", [0.0, 0.01, 0.03])
def test_at_most_six_percent_of_nulls_are_resolved(seeds: int, deviation: float) -> None:
    """Two methods alike, seed deviation 0 to 3 points, 900 videos of unequal difficulty; nominal 5 %."""
    rng, resolved, trials = np.random.default_rng(seeds), 0, 500
    for _ in range(trials):
        chance = rng.beta(0.8, 0.6, 900)
        found = difference(drawn(rng, chance, seeds, deviation), drawn(rng, chance, seeds, deviation), "knn")
        resolved += found is not None and found.resolved
    print(f"seeds {seeds}, deviation {deviation}: {resolved / trials:.3f} resolved")
    assert resolved <= 0.06 * trials


@pytest.mark.slow
def test_a_difference_that_is_there_is_resolved() -> None:
    """5.4 points (6 before clipping), three seeds that deviate by one point, 900 videos: 79 of 100 times."""
    rng, resolved = np.random.default_rng(0), 0
    for _ in range(100):
        chance = rng.beta(0.8, 0.6, 900)
        found = difference(drawn(rng, chance + 0.06, 3, 0.01), drawn(rng, chance, 3, 0.01), "knn")
        resolved += found is not None and found.resolved
    assert resolved >= 70


def test_the_share_of_noise_is_that_of_the_seeds() -> None:
    rng = np.random.default_rng(0)
    pure = noise_share(rng.normal(size=(400, 3)).tolist())
    half = noise_share((rng.normal(size=(400, 1)) * math.sqrt(1 / 3) + rng.normal(size=(400, 3))).tolist())
    assert pure == pytest.approx(1.0, abs=0.1) and half == pytest.approx(0.5, abs=0.1)
    assert noise_share([[0.1, 0.1], [0.5, 0.5]]) == 0.0
    assert noise_share([[0.1], [0.2], [0.3, 0.4]]) is None
