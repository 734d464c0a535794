"""Tiny runs that are cut off and resumed, and what they leave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from paramcrop import dist
from paramcrop.data.batch import Batch, shard_batch
from paramcrop.settings.config import Config
from paramcrop.storage.checkpoint import newest_checkpoint, read_meta
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.runs import read_metrics
from paramcrop.training.build import build_clip_spec
from paramcrop.training.pretrain import pretrain
from paramcrop.training.recorder import Recorder
from tests.memory import made_clips, memory_batches

STEPS = 2  # per epoch
SETTINGS = ("train.epochs=4", "run.log_every=3", "run.checkpoint_epochs=1", "augment.jitter=1", "optim.name=lars")
TIMED = ("clips_per_s", "data_wait")  # metrics that depend on the clock


class CutOff(Exception):
    """Simulates a kill: nothing is written or closed after it."""


def batches(config: Config) -> Any:
    clips = made_clips(STEPS * config.train.global_batch, config.data.clip_frames, config.data.clip_size)
    return memory_batches(clips, build_clip_spec(config), config.seed, config.train.global_batch)


def run(folder: Path, config: Config, cut_at: int | None = None) -> None:
    """Train in ``folder`` from its newest checkpoint, to the end or until step ``cut_at`` asks for its batch."""
    resume, _ = newest_checkpoint(folder) if dist.rank() == 0 else (None, [])
    resume = dist.gather_objects(resume)[0]
    recorder = Recorder(folder, read_meta(resume)["step"] if resume else 0)
    give = batches(config)

    def mine(epoch: int) -> Iterator[Batch]:
        for i, batch in enumerate(give(epoch)):
            if cut_at == epoch * STEPS + i:
                raise CutOff
            yield shard_batch(batch, dist.rank(), dist.world_size())

    try:
        pretrain(config, mine, STEPS, recorder, resume=resume)
    except CutOff:
        return
    recorder.close()


def left(folder: Path) -> dict[str, Any]:
    """Everything that a run writes and that does not depend on the clock."""
    newest, passed_over = newest_checkpoint(folder)
    assert newest is not None and passed_over == []
    crops = {path.name: dict(np.load(path)) for path in sorted((folder / "crops").iterdir())}
    return {
        "weights": (newest / "state.pt").read_bytes(),
        "metrics": [{k: v for k, v in line.items() if k not in TIMED} for line in read_metrics(folder)],
        "samples": read_lines(folder / "samples.jsonl"),
        "crops": {f"{name}/{key}": value.tobytes() for name, arrays in crops.items() for key, value in arrays.items()},
    }
