"""Failures by time, memory or storage are tried again; only what was read is kept; --fresh really computes again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paramcrop.data.killable import may_pass
from paramcrop.data.uniform import direct
from paramcrop.errors import DataError, VideoError
from paramcrop.evaluation.evaluate import evaluate
from paramcrop.evaluation.job import Job
from paramcrop.evaluation.videos import Map
from paramcrop.storage.results import read_result, write_result
from ray_jobs.engine.evaluators import Evaluator
from tests.labelled import BROKEN, TEST, make_job

CPU = torch.device("cpu")
SLOW = "reading took longer than 0.03 s"


class Guard:
    """Reads videos in this process, except the ``slow`` ones, for which the time is up; counts what it reads."""

    def __init__(self, slow: Callable[[str], bool] = lambda video: False) -> None:
        self.slow, self.read = slow, list[str]()

    def __call__(self, function: Callable[..., Any], row: Any, *args: Any) -> Any:
        if self.slow(row["id"]):
            raise VideoError(SLOW)
        self.read.append(row["id"])
        return direct(function, row, *args)

    @property
    def mapped(self) -> Map:
        def mapped(function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
            return (function(item, guard=self) for item in items)

        return mapped


def job_of(run: Path, folder: str, home: Path, protocol: str = "knn", *overrides: str) -> Job:
    return replace(make_job(run, folder, protocol, "test_clips=1", *overrides), run=str(home))


def compute(job: Job, guard: Guard) -> dict[str, Any]:
    write_result(job.result_file, evaluate(job, CPU, guard.mapped))
    result = read_result(job.result_file)
    assert result is not None
    return result


@pytest.mark.parametrize("protocol", ["knn", "retrieval", "heads", "linear"])
def test_where_time_was_up_for_every_video_it_is_one_line_and_nothing_is_kept(
    tiny_run: Path, labelled: str, tmp_path: Path, protocol: str
) -> None:
    job = job_of(tiny_run, labelled, tmp_path, protocol, *(("epochs=1", "batch=16") if protocol == "linear" else ()))
    with pytest.raises(
        DataError, match=rf"none of the \d+ videos of .*, such as synthetic-.*: {SLOW}; a larger --time"
    ):
        evaluate(job, CPU, Guard(lambda video: True).mapped)
    assert list(tmp_path.rglob("*.pt")) == []
    assert evaluate(job, CPU, map)["again"] == []


def test_videos_that_were_not_read_in_time_are_tried_again_and_no_others(
    tiny_run: Path, labelled: str, tmp_path: Path
) -> None:
    job = job_of(tiny_run, labelled, tmp_path)
    expected = evaluate(replace(job, run=str(tmp_path / "undisturbed")), CPU, map)
    slow = expected["videos"][3]
    part = compute(job, Guard(lambda video: video == slow))
    assert part["again"] == [slow] and part["rows"][0]["n"] == TEST - BROKEN - 1 and not job.settled
    guard = Guard()
    whole = compute(job, guard)
    assert guard.read == [slow] and job.settled
    assert (whole["videos"], whole["scores"]) == (expected["videos"], expected["scores"])
    again = Guard()
    assert compute(job, again)["rows"] == expected["rows"] and again.read == []  # videos that never decode stay so


def test_a_training_without_videos_for_which_time_was_up_is_not_the_one_that_is_kept(
    tiny_run: Path, labelled: str, tmp_path: Path
) -> None:
    job = job_of(tiny_run, labelled, tmp_path, "linear", "epochs=1", "batch=16")
    expected = evaluate(replace(job, run=str(tmp_path / "undisturbed")), CPU, map)
    train = Guard()
    compute(replace(job, run=str(tmp_path / "other")), train)
    slow = train.read[0]
    assert compute(job, Guard(lambda video: video == slow))["again"] == [slow] and not job.settled
    assert compute(job, Guard())["scores"] == expected["scores"] and job.settled


def test_fresh_computes_features_again_and_keeps_the_old_result_until_the_new_one_exists(
    tiny_run: Path, labelled: str, tmp_path: Path
) -> None:
    job = job_of(tiny_run, labelled, tmp_path)
    old = compute(job, Guard())
    fresh = job.afresh("first")
    assert job.settled and not fresh.settled and read_result(job.result_file) == old
    with pytest.raises(DataError, match=SLOW):
        compute(fresh, Guard(lambda video: True))
    assert read_result(job.result_file) == old and list(job.features.iterdir())
    guard = Guard()
    assert compute(fresh, guard)["rows"] == old["rows"] and fresh.settled and len(guard.read) > TEST - BROKEN
    other = Guard()  # another protocol of the same command shares its features
    compute(job_of(tiny_run, labelled, tmp_path, "heads").afresh("first"), other)
    assert other.read == []
    assert not job.afresh("second").settled


def test_fresh_computes_again_what_a_bucket_has(
    tiny_run: Path, labelled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guard()
    monkeypatch.setattr(Evaluator, "_mapped", lambda self, function, items: guard.mapped(function, items))
    monkeypatch.setattr("paramcrop.storage.mirror.copies", lambda: tmp_path / "copies")
    bucket = shutil.copytree(tiny_run, tmp_path / "bucket" / "tiny")
    job = replace(job_of(tiny_run, labelled, tmp_path / "command"), uri=f"file://{bucket}")
    evaluator = Evaluator(1, gpu=False, ahead=1, timeout=30)
    assert evaluator.evaluate(job) is None and guard.read
    guard.read.clear()
    assert evaluator.evaluate(job) is None and guard.read == []
    assert evaluator.evaluate(job.afresh("first")) is None and len(guard.read) > TEST - BROKEN
    result = read_result(bucket / "evaluations" / f"{job.eval_id}.json")
    assert result is not None and result["fresh"] == "first"


def test_a_damaged_file_of_features_is_computed_again(tiny_run: Path, labelled: str, tmp_path: Path) -> None:
    job = job_of(tiny_run, labelled, tmp_path)
    expected = evaluate(job, CPU, map)
    for file, content in zip(sorted(job.features.iterdir()), (b"", b"damaged"), strict=True):
        file.write_bytes(content)
    assert evaluate(job, CPU, map)["scores"] == expected["scores"]


def test_where_too_few_are_read_it_says_how_many_are_needed(tiny_run: Path, labelled: str, tmp_path: Path) -> None:
    job = job_of(tiny_run, labelled, tmp_path)
    train = sorted(evaluate(job_of(tiny_run, labelled, tmp_path / "all", "retrieval"), CPU, map)["facts"]["nearest"][0])
    with pytest.raises(DataError, match=r"needs \d+ training videos, but split train has 5; set neighbours=5"):
        evaluate(job, CPU, Guard(lambda video: video not in train and video < "synthetic-0-000040").mapped)


@pytest.mark.parametrize(
    ("reason", "passes"),
    [
        ("reading took longer than 60 s", True),
        ("the decoder process was killed by SIGKILL", True),
        ("the decoder process exited with code 1", True),
        ("cannot be read now: OSError: [Errno 5] Input/output error", True),
        ("the decoder process was killed by SIGSEGV", False),
        ("PyAV cannot open the video: no stream", False),
        ("cannot be read: ValueError: odd size", False),
    ],
)
def test_a_video_that_never_decodes_is_told_from_one_that_may(reason: str, passes: bool) -> None:
    assert may_pass(reason) == passes
