from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from paramcrop.evaluation.results import (
    Difference,
    by_seed,
    mean_of,
    means,
    paired_difference,
    read_result,
    shown_metrics,
    t_half,
    write_result,
)
from paramcrop.report.text import notes, show_difference, show_mean


def rows(*values: tuple[float, int]) -> list[dict[str, Any]]:
    return [{"value": value, "n": n, "of": n + 1, "splits": i} for i, (value, n) in enumerate(values)]


def test_splits_are_averaged_within_a_seed_before_seeds() -> None:
    found = mean_of({0: rows((0.5, 4), (1.0, 4)), 1: rows((0.25, 4), (0.5, 4)), 2: rows((0.5, 4), (0.5, 4))})
    assert found.values == (0.75, 0.375, 0.5)
    assert found.value == pytest.approx(sum(found.values) / 3)
    spread = torch.tensor(found.values).std().item()
    assert found.half == pytest.approx(4.3027 * spread / math.sqrt(3), rel=1e-4)
    assert (found.n, found.of) == (8, 10)
    assert found.test_error == pytest.approx(math.sqrt(found.value * (1 - found.value) / 8))


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
    assert t_half(values) == pytest.approx(t / math.sqrt(n), rel=2e-3)


def test_a_paired_difference_is_over_videos_that_all_have() -> None:
    a = [{"x": 1.0, "y": 1.0, "z": 0.0, "only a": 1.0}, {"x": 1.0, "y": 0.0, "z": 1.0}]
    b = [{"x": 0.0, "y": 1.0, "z": 0.0}, {"x": 0.0, "y": 0.0, "z": 0.0}]
    found = paired_difference(a, b)
    assert found.value == pytest.approx((1 + 0 + 0.5) / 3)
    assert found.half == t_half([1, 0, 0.5]) and not found.resolved
    alone = paired_difference(a, b[:1])  # one seed against two
    assert alone.value == pytest.approx((1 - 0.5 + 0.5) / 3)
    many = [{str(i): 1.0 for i in range(20)}]
    assert paired_difference(many, [dict.fromkeys(many[0], 0.0)]).resolved


def test_a_result_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    told = dict.fromkeys(("subject", "dataset", "content_id", "splits", "protocol", "version", "seed", "commit"), "x")
    result: dict[str, Any] = {
        "eval_id": "e",
        "pretraining_seed": 0,
        **told,
        "rows": [{"metric": "R@1", "value": 0.5, "n": 1, "of": 2}],
    }
    file = tmp_path / "evaluations" / "e.json"
    assert read_result(file) is None
    write_result(file, result)
    assert read_result(file) == result
    (line,) = (json.loads(text) for text in (tmp_path / "results.jsonl").read_text().splitlines())
    assert (line["metric"], line["value"], line["n"], line["of"], line["eval_id"]) == ("R@1", 0.5, 1, 2, "e")
    file.write_text('{"torn": ')
    assert read_result(file) is None


def result(subject: str, pretraining_seed: int, seed: int, split: str, **scores: tuple[float, ...]) -> dict[str, Any]:
    return {
        "subject": subject,
        "pretraining_seed": pretraining_seed,
        "seed": seed,
        "splits": ["train", split],
        "videos": [f"{split}{i}" for i in range(2)],
        "scores": scores,
        "rows": [{"metric": metric, "value": sum(of) / 2, "n": 2, "of": 2} for metric, of in scores.items()],
    }


def test_seeds_are_the_pretrainings_of_a_run_and_its_own_of_a_baseline() -> None:
    cells = [(0, 0, "1", (1, 0)), (0, 1, "1", (1, 1)), (1, 0, "1", (0, 0))]
    of_a_run, of_a_baseline = (
        means([result(subject, a, b, split, knn=of) for a, b, split, of in cells])["knn"].values
        for subject in ("run", "random-init")
    )
    assert of_a_run == (0.75, 0.0) and of_a_baseline == (0.25, 1.0)


def test_scores_of_a_seed_are_those_of_all_its_splits() -> None:
    results = [result("run", seed, 0, split, knn=(seed, 1)) for seed in (0, 1) for split in "ab"]
    assert by_seed(results, "knn") == [{"a0": seed, "a1": 1, "b0": seed, "b1": 1} for seed in (0, 1)]


def test_the_main_metric_is_the_first_that_is_shown() -> None:
    assert shown_metrics({"rows": [{"metric": m} for m in ("R@50", "R@5", "R@1", "video@5")]}) == ["R@1", "R@5"]
    assert shown_metrics({"rows": [{"metric": m} for m in ("clip@1", "video@1")]}) == ["video@1", "clip@1"]


def test_figures_are_shown_in_percent_with_their_errors() -> None:
    one, two, three = (mean_of({i: rows((0.5 + i / 10, 4)) for i in range(n)}) for n in (1, 2, 3))
    assert show_mean(one) == "50.0 [25.0]" and show_mean(two) == "55.0 (50.0, 60.0) [24.9]"
    assert show_mean(three) == "60.0 ± 24.8 [24.5]"
    assert show_difference(Difference(0.012, 0.008, True)) == "+1.2 ± 0.8"
    assert show_difference(Difference(-0.003, 0.011, False)) == "-0.3 ± 1.1: not resolved"


def test_what_must_be_known_to_compare_is_said() -> None:
    def of(subject: str, data: str, protocol: str, split: str | None) -> tuple[dict[str, Any], str | None]:
        told = {"subject": subject, "pretraining_data": data, "content_id": "a", "protocol": protocol}
        return told | {"numbers": {"name": "knn"}, "dataset": "made-up", "classes": ["a", "b", "c"]}, split

    chance = "note: made-up has 3 classes: by chance, the first guess is right in 33.3 %"
    assert notes([of("run", "b", "knn", None), of("pixels", "a", "knn", None)]) == [chance]
    same = "note: the run was pretrained, without labels, on this same set (all videos, train)"
    assert notes([of("run", "a", "knn", "train"), of("run", "a", "knn", None)]) == [same, chance]
    line, last = notes([of("run", "b", "knn[size=3]", None)])
    assert line.startswith("note: numbers in brackets differ") and last == chance
