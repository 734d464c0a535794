"""An interrupted and resumed run equals an uninterrupted one, bit for bit."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from paramcrop import dist
from paramcrop.data.batch import Batch, shard_batch
from paramcrop.errors import StorageError
from paramcrop.storage.checkpoint import newest_checkpoint, save_checkpoint
from paramcrop.storage.runs import read_metrics
from paramcrop.training.pretrain import own_random_state, pretrain
from paramcrop.training.recorder import Recorder
from tests.memory import on_two_ranks, tiny_config
from tests.training.made_runs import SETTINGS, STEPS, CutOff, batches, left, run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    run(folder, tiny_config(*SETTINGS))
    return left(folder)


@pytest.mark.parametrize("cut_at", [0, 1, 2, 5, 7])
def test_a_run_interrupted_at_any_step_ends_equal(tmp_path: Path, whole: Any, cut_at: int) -> None:
    """Before, at and after a checkpoint, and between two lines of metrics (every third step)."""
    config = tiny_config(*SETTINGS)
    run(tmp_path, config, cut_at)
    assert len(read_metrics(tmp_path)) < 4
    run(tmp_path, config)
    assert left(tmp_path) == whole


def test_a_run_interrupted_twice_ends_equal(tmp_path: Path, whole: Any) -> None:
    config = tiny_config(*SETTINGS)
    for cut_at in (3, 6, None):
        run(tmp_path, config, cut_at)
    assert left(tmp_path) == whole


def _two_ranks(folder: str, cut_at: int | None) -> None:
    run(Path(folder), tiny_config(*SETTINGS, "train.workers=2"), cut_at)


def test_two_ranks_resume_bit_for_bit(tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    on_two_ranks(_two_ranks, tmp_path / "whole", str(tmp_path / "whole" / "run"), None)
    for cut_at in (5, None):
        (tmp_path / "cut" / "store").unlink(missing_ok=True)
        on_two_ranks(_two_ranks, tmp_path / "cut", str(tmp_path / "cut" / "run"), cut_at)
    assert left(tmp_path / "cut" / "run") == left(tmp_path / "whole" / "run")


@pytest.mark.parametrize("damage", ["short", "other bytes", "no meta", "meta torn"])
def test_a_damaged_checkpoint_is_skipped_and_reported(tmp_path: Path, whole: Any, damage: str) -> None:
    config = tiny_config(*SETTINGS)
    run(tmp_path, config, 7)
    torn = tmp_path / "checkpoints" / "epoch=0003"
    state = (torn / "state.pt").read_bytes()
    if damage == "short":
        (torn / "state.pt").write_bytes(state[:100])
    elif damage == "other bytes":
        (torn / "state.pt").write_bytes(state[:-1] + bytes([state[-1] ^ 1]))
    elif damage == "no meta":
        (torn / "meta.json").unlink()
    else:
        (torn / "meta.json").write_text('{"epoch": 3')
    newest, passed_over = newest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "epoch=0002"
    assert len(passed_over) == 1 and passed_over[0].startswith("epoch=0003: ")
    run(tmp_path, config)
    assert left(tmp_path) == whole


def test_a_file_named_stop_ends_the_run_after_the_epoch_and_it_can_resume(tmp_path: Path, whole: Any) -> None:
    config = tiny_config(*SETTINGS, "run.checkpoint_epochs=4")
    tmp_path.joinpath("stop").touch()
    run(tmp_path, config)
    newest, _ = newest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "epoch=0001"
    tmp_path.joinpath("stop").unlink()
    run(tmp_path, config)
    assert left(tmp_path) == whole


def test_lines_of_an_earlier_process_do_not_reach_the_run(tmp_path: Path) -> None:
    old = Recorder(tmp_path)
    old.metrics(1, 0, {"loss": 1.0})
    new = Recorder(tmp_path)
    old.metrics(2, 0, {"loss": 2.0})
    new.metrics(1, 0, {"loss": 3.0})
    assert read_metrics(tmp_path) == [{"step": 1, "epoch": 0, "loss": 3.0}]


def test_a_process_that_lost_the_run_writes_no_checkpoint(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, owns_run=lambda: False)
    recorder.checkpoint({}, 1, 2)
    assert "another command has taken over this run" in recorder.problem
    assert newest_checkpoint(tmp_path) == (None, [])


def full_disk(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "where",
    [
        "paramcrop.storage.checkpoint._sync",
        "paramcrop.storage.jsonl.Lines.add",
    ],
)
def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, whole: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(*SETTINGS)
    run(tmp_path, config, 5)
    before = sorted((tmp_path / "checkpoints").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(where, full_disk)
        with pytest.raises(StorageError, match=r"cannot write to .*: No space left on device; fix this"):
            run(tmp_path, config)
    assert sorted((tmp_path / "checkpoints").iterdir()) == before
    run(tmp_path, config)
    assert left(tmp_path) == whole


def _problem_on_rank_0(folder: str) -> str:
    config = tiny_config(*SETTINGS, "train.workers=2")
    recorder = Recorder(Path(folder))
    if dist.rank() == 0:
        recorder.problem = "the disk is full"
    give = batches(config)
    try:
        pretrain(config, lambda e: (shard_batch(b, dist.rank(), 2) for b in give(e)), STEPS, recorder)
    except StorageError as error:
        return str(error)
    return ""


def test_a_problem_on_one_rank_ends_all_ranks(tmp_path: Path) -> None:
    ended = on_two_ranks(_problem_on_rank_0, tmp_path, str(tmp_path / "run"))
    assert ["the disk is full" in text for text in ended] == [True, True]


def test_a_really_full_disk(tmp_path: Path, whole: Any) -> None:
    """A small file system that is full after the first checkpoint. The test needs permission to mount."""
    mounted = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        config = tiny_config(*SETTINGS)
        run(tmp_path / "run", config, 3)
        newest, _ = newest_checkpoint(tmp_path / "run")
        (tmp_path / "ballast").write_bytes(bytes(shutil.disk_usage(tmp_path).free - 50_000))
        with pytest.raises(StorageError, match="No space left on device"):
            run(tmp_path / "run", config)
        assert newest is not None and newest_checkpoint(tmp_path / "run") == (newest, [])
        (tmp_path / "ballast").unlink()
        run(tmp_path / "run", config)
        assert left(tmp_path / "run") == whole
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_checkpoint_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "epoch=0001"
    for value in (1.0, 2.0):
        save_checkpoint(folder, {"x": torch.tensor(value)}, {"epoch": 1, "step": 2})
        assert json.loads((folder / "meta.json").read_text())["bytes"] == (folder / "state.pt").stat().st_size
        assert torch.load(folder / "state.pt", weights_only=True)["x"].item() == value
    assert [path.name for path in tmp_path.iterdir()] == ["epoch=0001"]


def _random_states(folder: str) -> dict[str, Any]:
    """Preempted after the first step, of which rank 1 alone hears: the random states of all ranks, and this rank's."""
    config = tiny_config(*SETTINGS, "run.log_every=1")

    def mine(epoch: int) -> Iterator[Batch]:
        torch.rand(1 + dist.rank())  # a draw that is the rank's own
        first, _ = batches(config)(epoch)
        yield shard_batch(first, dist.rank(), dist.world_size())
        raise CutOff

    with pytest.raises(CutOff):
        pretrain(config, mine, STEPS, Recorder(Path(folder)), preempted=lambda: dist.rank() == 1)
    resume = dist.gather_objects(newest_checkpoint(Path(folder))[0] if dist.rank() == 0 else None)[0]
    kept = torch.load(resume / "state.pt", weights_only=True)["drawn"]
    return {"kept": kept, "mine": own_random_state(kept), "alone": own_random_state(kept[:1])}


def test_every_rank_goes_on_from_its_own_random_state(tmp_path: Path) -> None:
    first, second = on_two_ranks(_random_states, tmp_path, str(tmp_path / "run"))
    assert torch.equal(first["mine"], first["kept"][0]) and torch.equal(second["mine"], first["kept"][1])
    assert not torch.equal(first["mine"], second["mine"])
    assert first["alone"] is None  # saved by one rank, resumed by two
