"""What an evaluation refuses before anything is computed: videos that were trained on, and too few videos."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paramcrop.data.manifest import read_manifest
from paramcrop.data.shards import Video, write_shards
from paramcrop.data.synthetic import CLASSES, videos
from paramcrop.errors import CheckpointError, ConfigError, DataError, ShardError
from paramcrop.evaluation.evaluate import evaluate
from paramcrop.evaluation.features import Forward, Normalise, Outputs, clip_outputs, stored_outputs
from paramcrop.evaluation.fitting.heads import choose
from paramcrop.evaluation.job import Job
from paramcrop.evaluation.protocols import find_protocol
from paramcrop.evaluation.tasks import Request, make_jobs, size_warnings
from paramcrop.evaluation.videos import held_out, open_pair, open_split
from paramcrop.storage.checkpoint import save_checkpoint
from paramcrop.storage.runs import write_provenance
from tests.labelled import make_job, small
from tests.memory import tiny_config

CPU = torch.device("cpu")
OFFICIAL = {  # as HMDB51's: a test video of one split trains in another
    "a": ("test1", "train2"),
    "b": ("train1", "test2"),
    "c": ("train1", "train2"),
}


def rows(splits: Sequence[tuple[str, ...]], per: int, **fields: Any) -> Iterator[Video]:
    """``per`` videos of class 0 and 1 in turn for each of ``splits``; nothing in them can be decoded."""
    for part, names in enumerate(splits):
        for i in range(per):
            video = Video(f"{part}-{i}", b"x", 25.0, 10, 8, 8, i % 2, names, f"sha-{part}-{i}")
            yield replace(video, **{key: make(part, i) for key, make in fields.items()})


def dataset(
    folder: Path, splits: Sequence[tuple[str, ...]] = tuple(OFFICIAL.values()), per: int = 30, **fields: Any
) -> str:
    write_shards(rows(splits, per, **fields), str(folder), ("x", "y"), {"dataset": "made-up", "short_side": 64})
    return str(folder)


def make_run(folder: Path, shards: str, *overrides: str, data: str = "") -> Path:
    """A folder that looks like a run on ``shards``; nothing was computed."""
    config = tiny_config(f"data.shards={shards}", *overrides)
    folder.mkdir(parents=True)
    write_provenance(folder, config, data or read_manifest(shards).content_id)
    save_checkpoint(folder / "checkpoints" / "epoch=0001", {}, {"epoch": 1, "step": 1})
    return folder


def request(shards: str, *protocols: str, **fields: Any) -> Request:
    return Request(tuple(("set", small(name)) for name in protocols), {"set": shards}, **fields)


def splits_of(jobs: list[Job]) -> list[tuple[str, str]]:
    return [(job.train, job.test) for job in jobs]


TAUGHT = ("method=mean_teacher", "data.split=train1")


@pytest.mark.parametrize("protocol", ["teacher", "student"])
def test_a_runs_classifier_is_tested_on_the_split_it_was_not_trained_on(tmp_path: Path, protocol: str) -> None:
    shards = dataset(tmp_path / "set")
    run = make_run(tmp_path / "run", shards, *TAUGHT)
    assert splits_of(make_jobs(request(shards, protocol), [run])) == [("train1", "test1")]
    assert splits_of(make_jobs(request(shards, protocol, splits=("1",)), [run])) == [("train1", "test1")]
    jobs = make_jobs(request(shards, protocol, subjects=("run", "random-init", "pixels")), [run])
    assert [job.subject for job in jobs] == ["run"]  # the others have no classifier


@pytest.mark.parametrize(
    ("overrides", "splits", "other", "error", "message"),
    [
        (TAUGHT, ("2",), False, ConfigError, "a run trained on train1 is tested on test1 alone, but --splits has 2"),
        (
            TAUGHT,
            ("1", "2"),
            False,
            ConfigError,
            "a run trained on train1 is tested on test1 alone, but --splits has 2",
        ),
        (TAUGHT[:1], (), False, ConfigError, "but it was trained on all 90 of its dataset; pretrain with data.split"),
        ((TAUGHT[0], "data.split=test1"), (), False, ConfigError, "must be trained on train1 or train2 .* on test1"),
        (TAUGHT, (), True, ConfigError, "tested on its own dataset, other, but --data names another"),
        ((), (), False, CheckpointError, "only a run with method=mean_teacher has a classifier .* method=simclr"),
    ],
)
def test_any_other_test_of_a_classifier_is_one_line(
    tmp_path: Path, overrides: tuple[str, ...], splits: tuple[str, ...], other: bool, error: type, message: str
) -> None:
    shards = dataset(tmp_path / "set")
    run = make_run(tmp_path / "run", shards, *overrides, data="other" if other else "")
    with pytest.raises(error, match=message) as caught:
        make_jobs(request(shards, "teacher", splits=splits), [run])
    assert str(caught.value).startswith("set/semi-supervised-teacher: ") and "\n" not in str(caught.value)


def test_evaluate_itself_refuses_what_a_command_would_not_ask_for(tmp_path: Path) -> None:
    shards = dataset(tmp_path / "set")
    (job,) = make_jobs(request(shards, "teacher"), [make_run(tmp_path / "run", shards, *TAUGHT)])
    with pytest.raises(ConfigError, match="a run trained on train1 is tested on test1 alone, but not on test2"):
        evaluate(replace(job, train="train2", test="test2"), CPU, map)


@pytest.mark.parametrize("protocol", ["linear", "finetune", "heads", "knn", "retrieval", "paper-fewshot-50"])
def test_a_run_that_learned_labels_is_not_tested_on_their_videos(tmp_path: Path, protocol: str) -> None:
    shards = dataset(tmp_path / "set")
    run = make_run(tmp_path / "run", shards, *TAUGHT)
    with pytest.raises(ConfigError) as caught:
        make_jobs(request(shards, protocol), [run])
    told = "the run learned from the labels of 30 of the 30 videos of test2, such as 1-0; --splits chooses another"
    assert told in str(caught.value)
    assert splits_of(make_jobs(request(shards, protocol, splits=("1",)), [run])) == [("train1", "test1")]
    without_labels = make_run(tmp_path / "simclr", shards, "data.split=train1")
    assert len(make_jobs(request(shards, protocol), [without_labels])) == 2
    baseline = make_jobs(request(shards, protocol, splits=("2",), subjects=("random-init",)), [run])
    assert splits_of(baseline) == [("train2", "test2")]


def test_another_dataset_with_the_same_files_counts_as_the_same_videos(tmp_path: Path) -> None:
    shards = dataset(tmp_path / "set")
    run = make_run(tmp_path / "run", shards, *TAUGHT)
    copies = dataset(tmp_path / "copies", (("train",), ("test",)), 30, id=lambda part, i: f"copy-{part}-{i}")
    told = r"labels of 30 of the 30 videos of test, such as copy-1-0 \(the same file as 1-0\)"
    with pytest.raises(ConfigError, match=told):
        make_jobs(request(copies, "knn"), [run])
    fields = {"id": lambda part, i: f"new-{part}-{i}", "source_sha256": lambda part, i: f"new-{part}-{i}"}
    others = dataset(tmp_path / "others", (("train",), ("test",)), 30, **fields)
    assert len(make_jobs(request(others, "knn"), [run])) == 1
    (tmp_path / "set" / "manifest.json").unlink()
    with pytest.raises(DataError, match="videos whose labels a run learned must be readable"):
        make_jobs(request(others, "knn"), [run])


@pytest.mark.parametrize("protocol", ["linear", "knn", "retrieval", "heads", "finetune"])
def test_the_same_file_in_training_and_test_is_an_error(tmp_path: Path, protocol: str) -> None:
    splits = (("train",), ("test",))
    shards = dataset(tmp_path / "set", splits, 30, source_sha256=lambda part, i: "same" if i == 7 else f"{part}-{i}")
    message = r"but 1 of the 30 videos of test are also in train, such as 1-7 \(the same file as 0-7\)"
    with pytest.raises(DataError, match=message):
        open_pair(shards, ("train", "test"), small(protocol), 0)
    unknown = dataset(tmp_path / "unknown", splits, 30, source_sha256=lambda part, i: "")
    open_pair(unknown, ("train", "test"), small(protocol), 0)  # nothing is known of their files


def test_a_shard_that_cannot_be_read_fails_its_own_evaluation_alone(tmp_path: Path) -> None:
    shards, broken = dataset(tmp_path / "set"), dataset(tmp_path / "broken", per=32)
    for file in (tmp_path / "broken").glob("*.parquet"):
        file.write_bytes(b"no parquet")
    asked = Request((("set", small("knn")), ("broken", small("knn"))), {"set": shards, "broken": broken})
    jobs = make_jobs(asked, [make_run(tmp_path / "run", shards)])
    assert [job.dataset for job in jobs] == ["set", "set", "broken", "broken"]
    with pytest.raises(ShardError, match="cannot read"):
        evaluate(jobs[-1], CPU, map)


# Near-duplicates


def ucf101(folder: Path) -> str:
    """Two classes of 10 sources with 4 clips each for training."""

    def name(part: int, i: int) -> str:
        return f"C/v_C{i % 2}_g{10 * part + i // 8:02d}_c{i % 8 // 2:02d}.avi"

    shards = rows((("train",), ("test",)), 80, id=name)
    write_shards(shards, str(folder), ("x", "y"), {"dataset": "ucf101"})
    return str(folder)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_validation_does_not_find_a_clip_of_the_same_source(tmp_path: Path, seed: int) -> None:
    train = open_split(ucf101(tmp_path), "train")
    gallery, queries = held_out(train, 0.2, 2000, seed)
    assert (len(gallery.labels), len(queries.labels)) == (64, 16)
    assert not {train.groups[video] for video in gallery.labels} & {train.groups[video] for video in queries.labels}


def test_heads_are_chosen_without_clips_of_the_same_source() -> None:
    """Sources are told apart by their features and classes are not: only leaked clips can be classified."""
    sources = 16
    features = torch.eye(sources).repeat_interleave(4, 0)
    labels, groups = torch.arange(sources).repeat_interleave(4) % 2, [str(i // 4) for i in range(4 * sources)]
    alone = [str(i) for i in range(4 * sources)]
    numbers: Any = (2, (1.0,), (0.0,), 0.25, 50, 0)
    leaking, without = (choose(features, labels, g, *numbers).accuracy.item() for g in (alone, groups))
    assert leaking == 1.0 and without < 0.7


def test_the_protocols_that_hold_out_have_a_new_version() -> None:
    versions = {name: find_protocol(name).version for name in ("validation", "heads", "knn", "retrieval", "linear")}
    assert versions == {"validation": 2, "heads": 2, "knn": 1, "retrieval": 1, "linear": 1}


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


# Sizes


def test_a_protocol_that_enlarges_the_videos_is_warned_of(tmp_path: Path) -> None:
    shards = dataset(tmp_path)
    asked = Request((("set", find_protocol("linear")), ("set", small("knn"))), {"set": shards})
    assert size_warnings(asked) == [
        "warning: set/paper-linear: clips of 224 x 224 pixels are enlarged from 56 x 56, because the videos have a "
        "short side of 64; prepare them with --short-side 256 or more, or set size=56"
    ]
