"""What is known before Ray starts is said then: shards that are not as the manifest has them, plans that cannot start.

Ray is not to start in these tests; the commands run in this process.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paramcrop.cli import dispatch
from paramcrop.data.manifest import Manifest, read_manifest, write_manifest
from paramcrop.data.shards import check_files, read_row_group, read_videos
from paramcrop.data.synthetic import cached_dataset, outlines
from paramcrop.errors import DataError, ParamCropError, ResourceError, ShardError
from paramcrop.settings.presets import load_config
from paramcrop.storage.jsonl import read_lines
from ray_jobs.engine.plans.plan import Node, plan_evaluations, plan_pretraining
from ray_jobs.engine.plans.sweep import plan_sweep
from ray_jobs.engine.worker import named_error, own_errors
from ray_jobs.videos import find_videos
from tests.labelled import make_labelled
from tests.ray_jobs.commands import Command
from tests.ray_jobs.test_grow import requested_and_planned


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home below the current folder; Ray is not to start."""
    monkeypatch.setenv("PARAMCROP_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ray.init", None)
    return tmp_path / "home"


@pytest.fixture
def copy(shards: tuple[str, Manifest], tmp_path: Path) -> str:
    return str(shutil.copytree(shards[0], tmp_path / "set"))


def refused(*line: str) -> str:
    with pytest.raises(ParamCropError) as raised:
        dispatch(line)
    assert raised.value.exit_code in (2, 3) and "\n" not in str(raised.value)
    return str(raised.value)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda file: file.unlink(), "it is missing"),
    "truncated": (lambda file: file.write_bytes(file.read_bytes()[:100]), "it has 100"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_shard_that_is_missing_or_truncated_is_named_with_the_mend(copy: str, labelled: str, how: str) -> None:
    damage, found = DAMAGE[how]
    size = read_manifest(copy).shards[0].bytes
    damage(Path(copy) / "shard-00000.parquet")
    start = f"{copy}: shard-00000.parquet must have {size} bytes as its manifest says, but {found}; "
    expected = f"{start}`paramcrop prepare … --out {copy} --fresh`, with the options that made it, makes it again"
    for line in (("pretrain",), ("pretrain", "--dry-run"), ("sweep", "--dry-run")):
        assert refused(*line, f"data.shards={copy}") == expected


def test_a_made_up_set_with_a_damaged_shard_can_be_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_jobs.videos.MADE_UP_VIDEOS", 32)
    folder, _ = find_videos(load_config("demo"))
    (Path(folder) / "shard-00000.parquet").unlink()
    assert refused("pretrain").endswith(f"it is missing; delete {folder}, and the same command makes it again")


def test_prepare_does_not_call_a_damaged_set_finished(tmp_path: Path) -> None:
    line = ("prepare", "--dataset", "synthetic", "--count", "2", "--short-side", "16", "--out", str(tmp_path / "set"))
    dispatch(line)
    (tmp_path / "set" / "shard-00000.parquet").write_bytes(b"")
    assert refused(*line).endswith("bytes as its manifest says, but it has 0; --fresh makes it again")
    dispatch([*line, "--fresh"])
    check_files(str(tmp_path / "set"), read_manifest(str(tmp_path / "set")))


def test_a_finished_set_names_what_failed_by_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ("prepare", "--dataset", "synthetic", "--count", "2", "--short-side", "16", "--out", str(tmp_path / "set"))
    dispatch(line)
    manifest = read_manifest(str(tmp_path / "set"))
    slow = {"id": "a", "path": "a.mp4", "splits": "train", "reason": "reading took longer than 60 s"}
    write_manifest(replace(manifest, rejected=(slow,)), str(tmp_path / "set"))
    dispatch(line)
    said = (
        "1 of its videos failed by time, memory or storage, such as a.mp4: reading took longer than 60 s; --fresh tries"
    )
    assert said in capsys.readouterr().out.splitlines()[-1]


def test_several_wrong_shards_are_counted_and_only_those_of_the_split_matter(labelled: str, tmp_path: Path) -> None:
    folder = str(shutil.copytree(labelled, tmp_path / "set"))
    manifest = read_manifest(folder)
    files = [shard.file for shard in manifest.select("test").shards]
    for file in files:
        (Path(folder) / file).unlink()
    check_files(folder, manifest.select("train"))
    Path(folder, manifest.select("train").shards[0].file).unlink()
    with pytest.raises(
        ShardError, match=rf"it is missing \({1 + len(files)} of {len(manifest.shards)} shards are wrong\)"
    ):
        check_files(folder, manifest)


def test_an_evaluation_on_damaged_shards_does_not_start(tiny_run: Path, copy: str, labelled: str) -> None:
    damaged = str(shutil.copytree(labelled, Path(copy).parent / "labelled"))
    (Path(damaged) / "shard-00000.parquet").unlink()
    line = ("evaluate", "--run", str(tiny_run), "--task", "knn", "--data", f"set={damaged}")
    assert "shard-00000.parquet must have" in refused(*line)


def test_others_go_on_beside_an_evaluation_on_damaged_shards(
    tiny_run: Path, labelled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = make_labelled(tmp_path / "damaged", seed=1)
    (Path(damaged) / "shard-00000.parquet").unlink()
    sets = ("--data", f"good={labelled}", f"bad={damaged}")
    dispatch(["evaluate", "--run", str(tiny_run), "--task", "knn", *sets, "--dry-run"])
    out = capsys.readouterr().out
    assert "2 evaluations: good/knn v" in out and f"warning: {damaged}: shard-00000.parquet must have" in out


# A dry run makes no data


@pytest.mark.parametrize(
    "line",
    [
        ("sweep", "--space", "es_bounds", "--preset", "k400_simclr_s3dg"),
        ("sweep", "--space", "table6"),
        ("pretrain", "--preset", "k400_simclr_s3dg"),
    ],
)
def test_a_dry_run_writes_nothing(line: tuple[str, ...], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dispatch([*line, "--dry-run"])
    out = capsys.readouterr().out
    assert not home.exists() and list(home.parent.iterdir()) == []
    if line[-1] == "k400_simclr_s3dg" and line[0] == "sweep":
        assert "warning: train.global_batch must be at most the number of videos, 256, but is 1024" in out


def test_a_dry_run_of_an_evaluation_writes_nothing(tiny_run: Path, home: Path) -> None:
    before = sorted(tiny_run.rglob("*"))
    dispatch(["evaluate", "--run", str(tiny_run), "--task", "knn", "--dry-run"])
    assert not home.exists() and sorted(tiny_run.rglob("*")) == before


@pytest.mark.parametrize("preset", ["k400_simclr_r2d3d18", "ucf101_small"])
def test_a_real_run_of_a_real_sets_preset_is_refused_before_anything_is_made(preset: str, home: Path) -> None:
    for line in (("pretrain",), ("sweep", "--space", "es_bounds")):
        message = refused(*line, "--preset", preset)
        assert message.startswith("data.split=train needs data.shards, a folder of shards, but it is not set; make")
        assert not list(home.rglob("*.parquet"))


def test_the_small_study_is_not_run_on_made_up_videos(home: Path) -> None:
    assert refused("sweep", "--space", "real_small").startswith("data.split=train needs data.shards")
    assert not list(home.rglob("*.parquet"))


def test_a_batch_above_the_made_up_set_is_refused_before_it_is_made(home: Path) -> None:
    for line in (("pretrain",), ("sweep", "--space", "es_bounds")):
        message = refused(*line, "train.global_batch=1024")
        assert message.startswith(
            "train.global_batch must be at most the number of videos, 256, but is 1024; data.shards"
        )
        assert not list(home.rglob("*.parquet"))


def test_an_outline_has_the_ids_classes_splits_and_content_id_of_its_set(home: Path) -> None:
    with outlines():
        outline = read_manifest(cached_dataset(home, 8, 16, 12, seed=1, test=4))
    assert not home.exists()
    made = read_manifest(cached_dataset(home, 8, 16, 12, seed=1, test=4))
    assert (outline.content_id, outline.splits, outline.classes) == (made.content_id, made.splits, made.classes)
    with outlines():
        assert cached_dataset(home, 8, 16, 12, seed=1, test=4).startswith(str(home))


# Plans that cannot start


def test_more_workers_than_cpus_are_refused() -> None:
    message = (
        "train.workers=8 needs a CPU for each of 8 processes, but there are 2; lower train.workers, or set train.wait"
    )
    with pytest.raises(ResourceError, match=message):
        plan_pretraining([Node(2)], 8)
    with pytest.raises(ResourceError, match=message):
        plan_sweep([Node(2)], 8)
    with pytest.raises(ResourceError, match="--evaluators 3 needs a CPU for each of 3 processes, but there are 2; ask"):
        plan_evaluations([Node(2)], 3)
    assert plan_pretraining([Node(2)], 8, cpus=0.1).workers == 8  # as the user has it
    assert plan_pretraining([Node(16, 8)], 8).use_gpu


def test_on_a_cluster_that_grows_it_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("train.workers=8", "train.device=auto", "train.wait_minutes=1")
    _, plan, messages, _ = requested_and_planned(monkeypatch, [[Node(2)], [Node(2), Node(16)]], *asked)
    assert messages[0].startswith(
        "waiting for the cluster to grow: train.workers=8 needs a CPU for each of 8 processes"
    )
    assert plan.workers == 8


# Weights and classifiers


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([torch.ones(2)], "contains a list"),
        ({"a": [torch.ones(2)]}, "contains only a"),
        (torch.ones(2), "contains a Ten"),
    ],
)
def test_weights_that_are_no_mapping(
    tiny_run: Path, labelled: str, tmp_path: Path, content: object, found: str
) -> None:
    torch.save(content, tmp_path / "theirs.pt")
    line = ("evaluate", "--run", str(tiny_run), "--task", "knn", "--data", f"set={labelled}", "--weights", "theirs.pt")
    message = refused(*line)
    assert message.startswith("weights must be a mapping from names to tensors, but") and found in message


@pytest.mark.parametrize("task", ["teacher", "student"])
def test_a_classifier_of_a_run_that_has_none(tiny_run: Path, labelled: str, task: str) -> None:
    line = ("evaluate", "--run", str(tiny_run), "--task", f"set/{task}", "--data", f"set={labelled}")
    assert "only a run with method=mean_teacher has a classifier to test, but this run has method=simclr" in refused(
        *line
    )


# Damage that only reading shows


def rot(folder: str) -> Path:
    """Damage a row group without a change of size."""
    file = Path(folder) / read_manifest(folder).shards[0].file
    content = bytearray(file.read_bytes())
    content[10:3000] = bytes(2990)
    file.write_bytes(content)
    return file


def test_damage_within_a_shard_is_one_line_that_names_the_file(copy: str) -> None:
    file = rot(copy)
    check_files(copy, read_manifest(copy))  # the size is right
    with pytest.raises(ShardError) as raised:
        list(read_videos(copy))
    message = str(raised.value)
    assert message.startswith(f"cannot read row group 0 of {file}: ") and "\n" not in message
    assert message.endswith(f"; `paramcrop prepare --check --out {copy}` names every damaged file")


def test_a_storage_that_stumbles_is_not_a_damaged_shard() -> None:
    class Stumbling:
        def open_input_file(self, path: str) -> None:
            raise OSError(5, "Input/output error")

    with pytest.raises(DataError, match=r"cannot read row group 0 of somewhere/x: .*Input/output error") as raised:
        read_row_group(Stumbling(), "somewhere/x", 0)
    assert not isinstance(raised.value, ShardError)


def test_an_error_that_ray_wraps_is_shown_as_itself() -> None:
    text = "ray::MapBatches(_read)() (pid=1)\nparamcrop.errors.ShardError: cannot read x; do y\n\nThe above exception …"
    error = named_error(f"{text}\nray.exceptions.UserCodeException: UDF failed to process a data block.")
    assert isinstance(error, ShardError) and str(error) == "cannot read x; do y"
    assert named_error("paramcrop.errors.Nonsense: a") is None and named_error("ValueError: b") is None

    def rows() -> Iterator[int]:
        yield 1
        raise RuntimeError(text)

    with pytest.raises(ShardError, match="cannot read x; do y"):
        list(own_errors(rows()))


@pytest.mark.ray
def test_a_pretraining_on_a_damaged_shard_ends_with_one_line_and_is_not_tried_again(copy: str, tmp_path: Path) -> None:
    file = rot(copy)
    settings = (f"data.shards={copy}", "train.max_steps=3", "train.global_batch=16")
    command = Command(tmp_path / "other", "pretrain.py", *settings)
    assert command.wait(200) == 2, command.text[-3000:]
    last = command.text.splitlines()[-1]
    assert last.startswith(f"error: cannot read row group 0 of {file}") and "Traceback" not in command.text
    (history,) = (tmp_path / "other").rglob("history.jsonl")
    assert [line["event"] for line in read_lines(history)].count("workers") == 1
