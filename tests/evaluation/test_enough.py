"""Too few videos, and values that are not finite, are one line and never a number."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paramcrop.data.shards import write_shards
from paramcrop.data.synthetic import CLASSES, videos
from paramcrop.errors import CheckpointError, DataError
from paramcrop.evaluation.evaluate import evaluate
from paramcrop.evaluation.features import Forward, Normalise, Outputs, clip_outputs, stored_outputs
from paramcrop.evaluation.fitting.heads import choose
from paramcrop.evaluation.job import Job
from paramcrop.evaluation.tasks import Request, make_jobs
from paramcrop.evaluation.videos import open_pair, open_split
from tests.evaluation.made_sets import dataset, make_run, rows
from tests.labelled import make_job, small

CPU = torch.device("cpu")


# Too few videos


def one_per_class(folder: Path, per: int = 1) -> str:
    shards = (v for v in rows((("train",), ("test",)), 2 * per))
    write_shards(shards, str(folder), ("x", "y"), {"dataset": "made-up"})
    return str(folder)


@pytest.mark.parametrize(
    ("protocol", "overrides", "message"),
    [
        (
            "heads",
            (),
            "needs a class with videos of two sources, to hold out one, but split train has none (x has 1 video)",
        ),
        (
            "validation",
            (),
            "needs a class with videos of two sources, to hold out one, but split train has none (x has 1 video)",
        ),
        ("knn", (), "knn needs 20 training videos, but split train has 2; set neighbours=2"),
        (
            "retrieval",
            ("ranks=[1,5,10,20,50]",),
            "needs 50 training videos for R@50, but searches 2 of split train; set ranks=[1]",
        ),
    ],
)
def test_too_few_videos_are_one_line_before_anything_is_computed(
    tmp_path: Path, protocol: str, overrides: tuple[str, ...], message: str
) -> None:
    shards = one_per_class(tmp_path)
    run = make_run(tmp_path / "run", shards)
    with pytest.raises(DataError) as caught:
        make_jobs(Request((("set", small(protocol, *overrides)),), {"set": shards}), [run])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_needed_is_enough(tmp_path: Path) -> None:
    shards = one_per_class(tmp_path, per=2)
    for protocol, numbers in (("heads", ()), ("validation", ("ranks=[1]",)), ("knn", ("neighbours=4",))):
        open_pair(shards, ("train", "test"), small(protocol, *numbers), 0)
    few = small("heads", "labels=0.5")
    with pytest.raises(DataError, match="but split train has none"):  # one labelled video of each class
        open_pair(shards, ("train", "test"), few, 0)


def test_videos_of_one_source_cannot_be_held_out(tmp_path: Path) -> None:
    shards = dataset(tmp_path, (("train",), ("test",)), 30, group=lambda part, i: f"{part}-{i % 2}")
    told = r"but split train has none \(x has 15 videos of one source\)"
    for protocol in ("heads", "validation"):
        with pytest.raises(DataError, match=told):
            open_pair(shards, ("train", "test"), small(protocol), 0)


def test_heads_with_two_videos_a_class_give_finite_numbers(tiny_run: Path, tmp_path: Path) -> None:
    """Four and fewer gave NaN, because a fifth of them is less than one."""
    made = list(videos(32, 8, 32, 32, 0, test=16))
    write_shards(made, str(tmp_path / "set"), CLASSES, {"dataset": "synthetic", "height": 32, "width": 32})
    job = replace(make_job(tiny_run, str(tmp_path / "set"), "heads", "epochs=5"), run=str(tmp_path / "run"))
    result = evaluate(job, CPU, map)
    json.dumps(result, allow_nan=False)
    assert result["set"] == {"dataset": "synthetic", "videos": 32, "classes": 8, "short_side": 32}


def test_a_learning_rate_that_is_too_large_is_not_chosen() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    features = torch.randn(40, 8, generator=generator) + 3 * labels[:, None]
    numbers: Any = (2, (1e38, 0.1), (0.0, 1e3), 0.2, 20, 0)
    choice = choose(features, labels, [str(i) for i in range(40)], *numbers)
    assert choice.lr == 0.1 and bool(choice.accuracy.isfinite().all())


# What is not finite


class Broken(torch.nn.Module):
    features = 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), 2), torch.nan)


def test_features_that_are_not_finite_are_an_error_and_are_not_stored(
    tiny_run: Path, labelled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(make_job(tiny_run, labelled, "knn"), run=str(tmp_path))
    forward, train = Forward(Normalise(0.0, 1.0), CPU, torch.float32), open_split(labelled, "train")
    with pytest.raises(
        CheckpointError, match=f"outputs must be finite, but those of {next(iter(train.labels))} are not"
    ):
        clip_outputs(Broken(), train, job.input, forward, map)
    monkeypatch.setattr(Job, "network", lambda self: Broken())
    for protocol in ("knn", "retrieval", "heads"):
        with pytest.raises(CheckpointError, match="a network's outputs must be finite"):
            evaluate(replace(make_job(tiny_run, labelled, protocol), run=str(tmp_path)), CPU, map)
    assert list(tmp_path.rglob("*.pt")) == []
    old = Outputs(["a"], torch.zeros(1, dtype=torch.int64), [torch.full((1, 2), torch.nan)], [])
    torch.save(old._asdict(), tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=r"those of a in .*old.pt are not; --fresh computes them again"):
        stored_outputs(tmp_path / "old.pt", lambda known: old)


def test_a_split_of_which_nothing_can_be_decoded_is_one_line(tiny_run: Path, tmp_path: Path) -> None:
    shards = dataset(tmp_path / "set", (("train",), ("test",)))
    for protocol, split in (("knn", "train"), ("retrieval", "train")):
        job = replace(make_job(tiny_run, shards, protocol), run=str(tmp_path))
        with pytest.raises(DataError, match=f"none of the 30 videos of split {split} could be decoded"):
            evaluate(job, CPU, map)
