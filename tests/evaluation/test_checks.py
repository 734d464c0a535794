"""What an evaluation refuses before anything is computed: videos that were trained on; and near-duplicates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paramcrop.data.shards import write_shards
from paramcrop.errors import CheckpointError, ConfigError, DataError, ShardError
from paramcrop.evaluation.evaluate import evaluate
from paramcrop.evaluation.fitting.heads import choose
from paramcrop.evaluation.job import Job
from paramcrop.evaluation.protocols import find_protocol
from paramcrop.evaluation.tasks import Request, make_jobs, size_warnings
from paramcrop.evaluation.videos import held_out, open_pair, open_split
from tests.evaluation.made_sets import dataset, make_run, request, rows
from tests.labelled import small

CPU = torch.device("cpu")


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


# The device of the evaluators


def test_the_evaluators_device_gives_the_precision_unless_the_run_says_which(tmp_path: Path) -> None:
    shards = dataset(tmp_path)
    run = make_run(tmp_path / "auto", shards, "train.device=cuda")
    by_device = {d: make_jobs(request(shards, "knn", device=d), [run])[0] for d in ("cpu", "cuda")}
    assert {d: job.settings.precision for d, job in by_device.items()} == {"cpu": "float32", "cuda": "bfloat16"}
    assert len({job.eval_id for job in by_device.values()}) == len({job.features for job in by_device.values()}) == 2
    chosen = make_run(tmp_path / "chosen", shards, "train.precision=float32")
    assert len({make_jobs(request(shards, "knn", device=d), [chosen])[0].eval_id for d in by_device}) == 1


def test_a_run_in_bfloat16_is_not_fine_tuned_on_cpus(tmp_path: Path) -> None:
    shards = dataset(tmp_path)
    run = make_run(tmp_path / "run", shards, "train.precision=bfloat16")
    assert make_jobs(request(shards, "knn", "retrieval", device="cpu"), [run])
    assert make_jobs(request(shards, "finetune", device="cuda"), [run])
    with pytest.raises(ConfigError, match="must be fine-tuned on GPUs, but --device is cpu"):
        make_jobs(request(shards, "finetune", device="cpu"), [run])


# Sizes


def test_a_protocol_that_enlarges_the_videos_is_warned_of(tmp_path: Path) -> None:
    shards = dataset(tmp_path)
    asked = Request((("set", find_protocol("linear")), ("set", small("knn"))), {"set": shards})
    assert size_warnings(asked) == [
        "warning: set/paper-linear: clips of 224 x 224 pixels are enlarged from 56 x 56, because the videos have a "
        "short side of 64; prepare them with --short-side 256 or more, or set size=56"
    ]
