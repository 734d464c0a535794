"""A run that is announced a preemption, or asked to end now, is kept up to the step reached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from paramcrop import dist
from paramcrop.data.batch import Batch, shard_batch
from paramcrop.storage.checkpoint import newest_checkpoint, read_meta
from paramcrop.storage.runs import ask_to_stop
from paramcrop.training.pretrain import pretrain
from paramcrop.training.recorder import Recorder
from tests.memory import on_two_ranks, tiny_config
from tests.training.made_runs import SETTINGS, STEPS, CutOff, batches, left, run


def test_a_preemption_loses_no_step(tmp_path: Path) -> None:
    """It is announced in the middle of the second epoch, and the run continues from there on another machine."""
    config = tiny_config(*SETTINGS, "run.log_every=1")
    reference = tmp_path / "reference"
    run(reference, config)
    moved, give = tmp_path / "moved", batches(config)
    calls, reports = list[int](), list[dict[str, float]]()

    def preempted() -> bool:
        calls.append(1)
        return len(calls) >= 3

    def until_preempted(epoch: int) -> Iterator[Batch]:
        for i, batch in enumerate(give(epoch)):
            if epoch * STEPS + i == 3:
                raise CutOff
            yield batch

    with pytest.raises(CutOff):
        pretrain(config, until_preempted, STEPS, Recorder(moved), reports.append, preempted=preempted)
    newest, _ = newest_checkpoint(moved)
    assert newest is not None and newest.name == "epoch=0001-step=0000003" and read_meta(newest)["step"] == 3
    assert reports[-1] == {"epoch": 1, "step": 3}

    def the_rest(epoch: int) -> Iterator[Batch]:
        for i, batch in enumerate(give(epoch)):
            if epoch * STEPS + i >= 3:
                yield batch

    recorder = Recorder(moved, 3)
    pretrain(config, the_rest, STEPS, recorder, resume=newest)
    recorder.close()
    assert left(moved) == left(reference)
    assert not list((moved / "checkpoints").glob("*-step=*"))


def test_a_run_asked_to_end_now_is_kept_up_to_the_step_reached(tmp_path: Path) -> None:
    """As Ctrl-C asks, in the middle of the second epoch and between two lines of metrics."""
    config = tiny_config(*SETTINGS, "run.log_every=1000")
    reference = tmp_path / "reference"
    run(reference, config)
    folder, give, reports = tmp_path / "interrupted", batches(config), list[dict[str, float]]()

    def then_ask(epoch: int) -> Iterator[Batch]:
        for i, batch in enumerate(give(epoch)):
            if epoch * STEPS + i == 2:
                ask_to_stop(str(folder), now=True)
            yield batch

    recorder = Recorder(folder)
    pretrain(config, then_ask, STEPS, recorder, reports.append)
    recorder.close()
    newest, _ = newest_checkpoint(folder)
    assert newest is not None and newest.name == "epoch=0001-step=0000003" and reports[-1] == {"epoch": 1, "step": 3}
    (folder / "stop").unlink()  # as the next command does
    recorder = Recorder(folder, 3)
    rest = {1: list(give(1))[1:]}
    pretrain(config, lambda epoch: rest.get(epoch) or give(epoch), STEPS, recorder, resume=newest)
    recorder.close()
    assert left(folder) == left(reference)


def _asked_of_rank_0(folder: str) -> str:
    config = tiny_config(*SETTINGS, "run.log_every=1000")
    if dist.rank() == 0:
        Path(folder).mkdir()
        ask_to_stop(folder, now=True)
    dist.gather_objects(None)

    def mine(epoch: int) -> Iterator[Batch]:
        yield from (shard_batch(batch, dist.rank(), dist.world_size()) for batch in batches(config)(epoch))

    pretrain(config, mine, STEPS, Recorder(Path(folder)))
    newest, _ = newest_checkpoint(Path(folder))
    return newest.name if newest else ""


def test_all_ranks_end_together_when_asked(tmp_path: Path) -> None:
    assert on_two_ranks(_asked_of_rank_0, tmp_path, str(tmp_path / "run"))[0] == "epoch=0000-step=0000001"
