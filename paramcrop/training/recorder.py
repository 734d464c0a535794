"""What a run leaves in its folder while it trains.

metrics.jsonl, tensorboard/    every ``run.log_every`` steps
samples.jsonl                  the video ids of each global step, in order
failures.jsonl                 the samples that could not be decoded, why, and what stood in for them
history.jsonl                  every start of the workers, and from which step
crops/step=0000240.npz         four videos and their crops, and 2,048 crops' parameters, at start, middle and end
checkpoints/epoch=0060/        state.pt, meta.json
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from paramcrop import dist
from paramcrop.crops.geometry import crop_box
from paramcrop.crops.paramcrop import draw_noise
from paramcrop.data.batch import Batch
from paramcrop.storage.checkpoint import NAME, WITHIN, save_checkpoint
from paramcrop.storage.jsonl import Lines, append_line, cut_lines
from paramcrop.storage.mirror import Mirror
from paramcrop.training.two_views import TwoViews, stack_params


class Board:
    """An event file in ``folder``.

    Args:
        step: the last step that counts; what earlier files in the folder say of later ones is hidden.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=step + 1, session_log=start))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Raises:
        OSError: the file cannot be written.
        """
        for name, value in values.items():
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


PROBE = 4  # videos whose crops are kept
SEND = 15.0  # seconds between two sendings of metrics
RECORDED = ("metrics.jsonl", "samples.jsonl", "failures.jsonl", "crops/", "tensorboard/")
DRAWS = 2048  # crops whose parameters are kept, of the same noise in every run


class Row(NamedTuple):
    """One sample of a step, as it is kept."""

    position: int  # in the epoch
    id: str
    error: str  # empty: it was decoded
    substitute: str  # the video shown instead


class Recorder:
    """Rank 0 writes; on other ranks, and with no folder, every call only takes its part in the exchange it needs.

    A write that fails is not raised, for the other ranks would wait for this one: ``trouble`` says what it was, nothing
    more is written, and the loop ends on all ranks together.

    Args:
        folder: the run's.
        step: the last step that counts; what was recorded of later ones is removed, for they are done again.
        held: whether the folder is still this run's to write to; asked before each checkpoint.
        mirror: of what ``folder`` is a copy, to which all of it is sent; none: of nothing.
    """

    def __init__(
        self,
        folder: Path | None,
        step: int = 0,
        held: Callable[[], bool] = lambda: True,
        mirror: Mirror | None = None,
    ) -> None:
        self.folder, self.held, self.trouble = folder, held, ""
        self._mirror = mirror or Mirror(folder or Path())
        self._sending, self._sent = Thread(), time.monotonic()
        self._probe: dict[str, Any] = {}
        with self._writing() as where:
            if where is not None:
                where.mkdir(parents=True, exist_ok=True)
                self._cut(where, step)
                # Held open: a process of an earlier attempt that still writes does so into a file that has gone.
                names = ("metrics", "samples", "failures")
                self._lines = {name: Lines(where / f"{name}.jsonl") for name in names}
                self._board = Board(where / "tensorboard", step)

    def started(self, step: int, epoch: int, passed_over: list[str], device: str) -> None:
        """Every start of the workers, for who reads the run's history."""
        with self._writing() as where:
            if where is not None:
                line = {"event": "workers", "step": step, "epoch": epoch, "workers": dist.world_size()}
                line["device"] = device
                self._mirror.fetch("history.jsonl")  # the command has written to it meanwhile
                append_line(where / "history.jsonl", line | ({"passed_over": passed_over} if passed_over else {}))
                self._mirror.send("history.jsonl")

    def metrics(self, step: int, epoch: int, values: dict[str, float]) -> None:
        with self._writing() as where:
            if where is not None:
                line = {"step": step, "epoch": epoch} | {k: _significant(v) for k, v in values.items()}
                self._lines["metrics"].add(line)
                self._board.add(step, values)
                self._send_metrics()

    def samples(self, first_step: int, seen: list[list[Row]]) -> None:
        """An epoch's rows on this rank -> one line per global step; an exchange, so called on every rank."""
        ranks = dist.gather_objects(seen)
        with self._writing() as where:
            if where is not None:
                for i, parts in enumerate(zip(*ranks, strict=True)):
                    rows = sorted(Row(*row) for part in parts for row in part)
                    step = first_step + i + 1
                    self._lines["samples"].add({"step": step, "ids": [row.id for row in rows]})
                    for row in rows:
                        if row.error:
                            failure = {"id": row.id, "reason": row.error, "substitute": row.substitute}
                            self._lines["failures"].add({"step": step} | failure)

    @torch.no_grad()
    def crops(self, model: TwoViews, batch: Batch, step: int, total: int) -> None:
        """At the first, middle and last step: the same four videos, with the same noise, and where their crops lie."""
        if step not in (0, total // 2, total - 1):
            return
        with self._writing() as where:
            if where is not None:
                probe = self._probe = self._probe or _first_probe(where / "crops") or _make_probe(batch)
                training = model.policy.training
                model.policy.train(False)
                crops = model.policy(torch.from_numpy(probe["noise"]).to(batch.noise), step / total)
                many = draw_noise(DRAWS, batch.noise.shape[-1], model.noise, torch.Generator().manual_seed(0))
                drawn = model.policy(many.to(batch.noise), step / total)
                model.policy.train(training)
                (where / "crops").mkdir(exist_ok=True)
                with (where / "crops" / f"step={step:07d}.npz").open("wb") as file:
                    np.savez_compressed(
                        file,
                        boxes=torch.stack([crop_box(p) for p in crops], 1).cpu().numpy(),  # (4, 2, 3, 2)
                        params=stack_params(drawn).cpu().numpy(),  # (DRAWS, 2, 6)
                        **probe,
                    )

    def checkpoint(self, state: dict[str, Any], epoch: int, step: int, within: bool = False) -> None:
        """``state`` after ``epoch`` epochs and ``step`` steps; what was recorded of them is sent before it.

        One that is taken ``within`` the next epoch lasts until that has its own.
        """
        name = NAME.format(epoch) + (WITHIN.format(step) if within else "")
        with self._writing() as where:
            if where is not None:
                if not self.held():
                    raise PermissionError("another command has taken this run over")
                meta = {"epoch": epoch, "step": step, "workers": dist.world_size()}
                save_checkpoint(where / "checkpoints" / name, state, meta)
                self._mirror.send(*RECORDED, f"checkpoints/{name}/")
                self._remove_older(where / "checkpoints", name)

    def _remove_older(self, checkpoints: Path, name: str) -> None:
        """Those taken within an epoch; and, where a bucket keeps them all, this copy's others."""
        for older in checkpoints.glob("epoch=*"):
            within = "-step=" in older.name
            if older.name != name and (within or self._mirror.uri):
                shutil.rmtree(older)
                if within:
                    self._mirror.remove(f"checkpoints/{older.name}/")

    def stop_asked(self) -> bool:
        """Whether someone has put a file named ``stop`` into the run's folder; the same answer on every rank."""
        asked = False
        with self._writing() as where:
            if where is not None:
                self._mirror.fetch("stop")
                asked = (where / "stop").exists()
        return bool(dist.gather_objects(asked)[0])

    def close(self) -> None:
        with self._writing() as where:
            if where is not None:
                self._board.close()
                for lines in self._lines.values():
                    lines.close()
                self._mirror.send(*RECORDED)

    def _send_metrics(self) -> None:
        """Now and then, and without waiting: for who watches; what does not arrive comes with the checkpoint."""
        if self._mirror.uri and time.monotonic() - self._sent > SEND and not self._sending.is_alive():
            self._sent = time.monotonic()
            self._sending = Thread(target=_quietly, args=(self._mirror,), daemon=True)
            self._sending.start()

    @contextmanager
    def _writing(self) -> Iterator[Path | None]:
        """The folder, where this rank is to write; a failure to becomes ``trouble``."""
        try:
            yield None if self.trouble or dist.rank() else self.folder
        except OSError as error:
            self.trouble = f"{self.folder} must be writable, but {error.strerror or error}"

    def _cut(self, where: Path, step: int) -> None:
        for name in ("metrics", "samples", "failures"):
            cut_lines(where / f"{name}.jsonl", step)
        for path in (where / "crops").glob("step=*.npz"):
            if int(path.stem.partition("=")[2]) >= step:  # taken before the step of that number
                path.unlink()


def _quietly(mirror: Mirror) -> None:
    with suppress(OSError):
        mirror.send("metrics.jsonl", waits=())


def _make_probe(batch: Batch) -> dict[str, Any]:
    first = batch.rows(slice(PROBE))
    tensors = {name: getattr(first, name).cpu().numpy() for name in ("video", "flip", "noise")}
    return {"id": np.array(first.id), **tensors}


def _first_probe(crops: Path) -> dict[str, Any]:
    """The videos an earlier attempt began with; none if it kept none."""
    for path in sorted(crops.glob("step=*.npz")):
        with suppress(ValueError, KeyError), np.load(path) as kept:
            return {name: kept[name] for name in ("id", "video", "flip", "noise")}
    return {}


def _significant(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None  # JSON has no infinity
