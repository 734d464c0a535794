from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paramcrop.errors import DataError
from paramcrop.report.text import Pretraining, notes
from paramcrop.storage.results import read_result, shown_metrics, write_result


def test_a_result_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = dict.fromkeys(("subject", "dataset", "content_id", "splits", "protocol", "version", "seed", "commit"), "x")
    result: dict[str, Any] = {
        "eval_id": "e",
        "pretraining_seed": 0,
        **others,
        "rows": [{"metric": "R@1", "value": 0.5, "n": 1, "of": 2}],
    }
    file = tmp_path / "evaluations" / "e.json"
    assert read_result(file) is None
    with monkeypatch.context() as patch:  # it ends before the last moment
        patch.setattr(Path, "replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_result(file, result)
    assert read_result(file) is None and not any(path.is_file() for path in tmp_path.rglob("*"))
    write_result(file, result)
    assert read_result(file) == result
    (line,) = (json.loads(text) for text in (tmp_path / "results.jsonl").read_text().splitlines())
    assert (line["metric"], line["value"], line["n"], line["of"], line["eval_id"]) == ("R@1", 0.5, 1, 2, "e")
    file.write_text('{"torn": ')
    assert read_result(file) is None


def test_the_main_metric_is_the_first_that_is_shown() -> None:
    assert shown_metrics({"rows": [{"metric": m} for m in ("R@50", "R@5", "R@1", "video@5")]}) == ["R@1", "R@5"]
    assert shown_metrics({"rows": [{"metric": m} for m in ("clip@1", "video@1")]}) == ["video@1", "clip@1"]


def test_notes_say_what_makes_results_hard_to_compare() -> None:
    def of(subject: str, data: str, protocol: str, split: str | None, labels: bool = False) -> tuple[Any, Any]:
        fields: dict[str, Any] = {"subject": subject, "pretraining_data": data, "content_id": "a", "protocol": protocol}
        fields |= {"splits": ["train", "test"], "labels": [0, 1, 2], "classes": ["a", "b", "c"]}
        return fields | {"numbers": {"name": "knn"}, "dataset": "made-up"}, Pretraining(split, labels)

    none = Pretraining(None, False)
    chance = "note: made-up has 3 classes; top-1 accuracy by chance is 33.3 %"
    assert notes([of("run", "b", "knn", None), of("pixels", "a", "knn", None)]) == [chance]
    same = "note: the run was pretrained on this same dataset (all videos, train), without labels"
    assert notes([of("run", "a", "knn", "train"), of("run", "a", "knn", None)]) == [same, chance]
    learned = "note: the run was pretrained on this same dataset (train1), with labels"  # by Mean Teacher
    assert notes([of("run", "a", "knn", "train1", True)]) == [learned, chance]
    line, last = notes([of("run", "b", "knn[size=3]", None)])
    assert line.startswith("note: the parameters in brackets differ") and last == chance
    draws = [({**of("random-init", "b", "knn", None)[0], "seed": seed}, none) for seed in (0, 1)]
    line, last = notes([*draws[:1], *draws[:1]])
    assert line.startswith("note: random-init is one draw") and last == chance
    assert notes(draws) == [chance]
    of_splits = [
        ({**of("run", "b", "knn", None)[0], "splits": ["train", f"test{k}"], "labels": labels}, none)
        for k, labels in ((1, [0, 0, 1, 2]), (2, [2, 2, 2, 0, 1, 1]), (2, [2, 2, 2, 0, 1, 1]))
    ]
    assert notes(of_splits) == [f"{chance}, by the largest class alone 50.0 %"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_result_with_a_number_that_is_not_finite_is_never_written(tmp_path: Path, value: float) -> None:
    file = tmp_path / "evaluations" / "e.json"
    with pytest.raises(DataError, match="every number of a result must be finite, but R@1 is not"):
        write_result(file, {"rows": [{"metric": "R@1", "value": value}]})
    assert list(tmp_path.rglob("*.json*")) == []
