"""What a run leaves in its folder while it trains.

config.yaml, versions.json     the resolved settings; commit and package versions
metrics.jsonl, tensorboard/    every ``run.log_every`` steps
samples.jsonl                  the video ids of each global step, in order; substitutes and their reasons
crops/step=0000240.npz         four videos and their crops, at start, middle and end
checkpoints/epoch=0060/        state.pt, meta.json
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboardX import SummaryWriter
from torch.optim import Optimizer

from paramcrop import dist
from paramcrop.batch import Batch
from paramcrop.checkpoint import save_checkpoint
from paramcrop.geometry import crop_box
from paramcrop.telemetry import stack_params
from paramcrop.two_views import TwoViews

PROBE = 4  # videos whose crops are kept
Seen = list[list[tuple[int, str, str]]]  # per step, per row: position in the epoch, video id, error


class Recorder:
    """Rank 0 writes; on other ranks, and with no folder, every call only takes its part in the exchange it needs."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._writes = folder is not None and dist.rank() == 0
        self._probe: Batch | None = None
        if folder is not None and self._writes:
            folder.mkdir(parents=True, exist_ok=True)
            self._board = SummaryWriter(str(folder / "tensorboard"), flush_secs=5)

    def metrics(self, step: int, epoch: int, values: dict[str, float]) -> None:
        if not self._writes:
            return
        self._append("metrics.jsonl", {"step": step, "epoch": epoch} | {k: _significant(v) for k, v in values.items()})
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def samples(self, first_step: int, seen: Seen) -> None:
        """An epoch's rows on this rank -> one line per global step; an exchange, so called on every rank."""
        ranks = dist.gather_objects(seen)
        if not self._writes:
            return
        for i, parts in enumerate(zip(*ranks, strict=True)):
            rows = sorted(row for part in parts for row in part)
            failed = {video: error for _, video, error in rows if error}
            line: dict[str, Any] = {"step": first_step + i + 1, "ids": [video for _, video, _ in rows]}
            self._append("samples.jsonl", line | ({"failed": failed} if failed else {}))

    @torch.no_grad()
    def crops(self, model: TwoViews, batch: Batch, step: int, total: int) -> None:
        """At the first, middle and last step: the same four videos, with the same noise, and where their crops lie."""
        if not self._writes or self.folder is None or step not in (0, total // 2, total - 1):
            return
        if self._probe is None:
            self._probe = batch.rows(slice(PROBE))
        training = model.policy.training
        crops = model.policy.eval()(self._probe.noise, step / total)
        batch_crops = model.policy(batch.noise, step / total)
        model.policy.train(training)
        folder = self.folder / "crops"
        folder.mkdir(exist_ok=True)
        np.savez_compressed(
            folder / f"step={step:07d}.npz",
            id=np.array(self._probe.id),
            video=self._probe.video.cpu().numpy(),
            flip=self._probe.flip.cpu().numpy(),
            boxes=torch.stack([crop_box(p) for p in crops], 1).cpu().numpy(),  # (4, 2, 3, 2)
            params=stack_params(batch_crops).cpu().numpy(),  # (B, 2, 6): of this rank's whole batch
        )

    def checkpoint(self, model: TwoViews, optimizer: Optimizer, epoch: int, step: int) -> None:
        if not self._writes or self.folder is None:
            return
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        folder = self.folder / "checkpoints" / f"epoch={epoch + 1:04d}"
        save_checkpoint(folder, state, {"epoch": epoch + 1, "step": step})

    def close(self) -> None:
        if self._writes:
            self._board.close()

    def _append(self, name: str, line: dict[str, Any]) -> None:
        assert self.folder is not None
        with (self.folder / name).open("a") as file:
            file.write(json.dumps(line) + "\n")


def _significant(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None  # JSON has no infinity
