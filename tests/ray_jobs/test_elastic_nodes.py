"""A pretraining on two machines, of which one is taken away for a minute and comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import pytest

from paramcrop.data.manifest import read_manifest
from paramcrop.data.samples import TrainingSet, read_segment
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.runs import ask_to_stop, read_metrics
from tests.labelled import make_labelled
from tests.memory import TINY, tiny_config
from tests.ray_jobs.commands import Command, steps_done
from tests.ray_jobs.two_nodes import machines

pytestmark = [pytest.mark.ray, pytest.mark.slow]

GONE, WAIT = 60.0, 240.0  # seconds: of the absence, and to wait for a change at most
EPOCHS = 2000  # more than fit into the test, which stops the run
BATCH = 8


def test_a_machine_is_taken_away_for_a_minute_and_comes_back() -> None:
    with machines(2) as cluster:
        shards = make_labelled(cluster.shared / "shards")
        where = (f"data.shards={shards}", "data.split=train", f"run.storage={cluster.shared}/runs")
        long = ("train.workers=1..2", f"train.epochs={EPOCHS}", "run.log_every=1", "run.checkpoint_epochs=1000")
        command = Command(cluster.home, "pretrain.py", *TINY, *where, *long, env=cluster.env)

        def folder() -> Path:
            return next((cluster.shared / "runs").glob("demo-*"), cluster.shared)

        def went_on(*numbers: int) -> bool:
            """Whether there have been these numbers of workers, one after the other, and the last took 15 steps."""
            starts = [line for line in read_lines(folder() / "history.jsonl") if line["event"] == "workers"]
            found = tuple(n for n, _ in groupby(line["workers"] for line in starts))
            return found == numbers and steps_done(folder()) >= starts[-1]["step"] + 15

        command.until(lambda: went_on(2), WAIT)
        assert "2 worker(s) of 1 or 2" in command.text
        cluster.kill(cluster.nodes[-1])
        gone = time.monotonic()
        command.until(lambda: went_on(2, 1), WAIT)
        print(f"\none worker goes on {time.monotonic() - gone:.0f} s after the other's machine went")
        time.sleep(max(0.0, gone + GONE - time.monotonic()))
        before = steps_done(folder())  # not later: the machine may be seen, and a checkpoint asked for, within ``add``
        cluster.add()
        back = time.monotonic()
        command.until(lambda: went_on(2, 1, 2), WAIT)
        print(f"two go on {time.monotonic() - back:.0f} s after it came back")
        ask_to_stop(str(folder()), now=True)
        assert command.wait(120) == 0, command.text[-3000:]
        told = [line for line in command.text.splitlines() if line.startswith("workers restarted")]
        changes = [line.partition(", ")[2] for line in told]
        assert list(filter(None, changes)) == ["1 instead of 2", "2 instead of 1"]
        check_records(folder(), shards, before)


def check_records(folder: Path, shards: str, before: int) -> None:
    """Every step was taken once, on its own videos, and none is lost that one worker took before the other came back.

    No checkpoint is due in this run, so the workers went on from the one that they were asked for.
    """
    last = [line["step"] for line in read_lines(folder / "history.jsonl") if line["event"] == "workers"][-1]
    assert last >= before
    metrics, samples = read_metrics(folder), read_lines(folder / "samples.jsonl")
    steps = list(range(1, metrics[-1]["step"] + 1))
    assert [line["step"] for line in metrics] == steps and [line["step"] for line in samples] == steps
    assert np.isfinite([line["loss"] for line in metrics]).all()
    assert [line["ids"] for line in samples] == list(islice(batches(shards), len(steps)))
    assert "2 x cpu, 1 x cpu from step" in (folder / "index.html").read_text()


def batches(shards: str) -> Iterator[list[str]]:
    """The ids of the videos of each step, as a pure function of the data and the seed."""
    window = tiny_config().data.shuffle_row_groups
    videos = TrainingSet(shards, read_manifest(shards).select("train"), 0, BATCH, window)
    for epoch in range(EPOCHS):
        ids = [name for part in videos.segments(epoch) for name in read_segment(shards, part)["id"].to_pylist()]
        yield from (ids[first : first + BATCH] for first in range(0, len(ids), BATCH))
