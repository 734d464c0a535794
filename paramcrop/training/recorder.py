"""The files that a run writes to its folder during training.

metrics.jsonl                  every ``run.log_every`` steps; the trackers get the same
samples.jsonl                  the video ids of each global step, in order
warnings.jsonl                 what a user should know, such as that the run does not learn
failures.jsonl                 samples that could not be decoded: the video, the reason, the substitute
history.jsonl                  every start of the workers and the step they started from
crops/step=0000239.npz         four videos with their crops, and the parameters of 2,048 crops, at start, middle and end
checkpoints/epoch=0060/        state.pt, meta.json
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import torch

from paramcrop import dist
from paramcrop.crops.geometry import crop_box
from paramcrop.crops.paramcrop import draw_noise
from paramcrop.data.batch import Batch
from paramcrop.storage.checkpoint import NAME, WITHIN, save_checkpoint
from paramcrop.storage.jsonl import Lines, append_line, cut_lines
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import asked_to_stop_now
from paramcrop.training.tracking.tracker import Facts
from paramcrop.training.tracking.trackers import Trackers
from paramcrop.training.two_views import TwoViews, stack_params

PROBE = 4  # videos whose crops are saved
SEND = 15.0  # seconds between two uploads of metrics
LOOK = 5.0  # seconds between two looks into a bucket for a request to stop
TRACKED = ("tensorboard/", "wandb/", "mlruns/")  # what trackers write into the folder
LINES = ("metrics", "samples", "failures", "warnings")  # .jsonl
RECORDED = (*(f"{name}.jsonl" for name in LINES), "crops/", *TRACKED, "profile/")
DRAWS = 2048  # crops whose parameters are saved, from the same noise in every run


class Row(NamedTuple):
    """One sample of a step."""

    position: int  # in the epoch
    id: str
    error: str  # why it could not be decoded; empty: it was decoded
    substitute: str  # id of the video shown instead


class Recorder:
    """Writes the files of a run on rank 0; on other ranks or without a folder, its methods only exchange data.

    A failed write is not raised, because the other ranks would wait for this one. ``problem`` then holds its text,
    nothing more is written, and the loop ends on all ranks together.

    Args:
        folder: folder of the run.
        step: the last valid step. Records of later steps are removed, because those steps are run again.
        owns_run: whether this process may still write to the folder; called before each checkpoint.
        mirror: the remote folder that ``folder`` is a copy of and that all files are sent to; None: no remote folder.
        trackers, config: names of the run's trackers, and its settings, which they get.
    """

    def __init__(
        self,
        folder: Path | None,
        step: int = 0,
        owns_run: Callable[[], bool] = lambda: True,
        mirror: Mirror | None = None,
        trackers: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] = {},
    ) -> None:
        self.folder, self.owns_run, self.problem = folder, owns_run, ""
        self._mirror = mirror or Mirror(folder or Path())
        self._sending, self._sent, self._looked = Thread(), time.monotonic(), 0.0
        self._probe: dict[str, Any] = {}
        self._step = step
        with self._writing() as where:
            if where is not None:
                where.mkdir(parents=True, exist_ok=True)
                self._remove_later_steps(where, step)
                # These files are new and stay open. A process of an earlier attempt that is still alive has the old
                # ones open, so its lines do not end up here.
                self._lines = {name: Lines(where / f"{name}.jsonl") for name in LINES}
                self._trackers = Trackers(trackers, Facts(where.name, str(where), config, step))

    def started(self, step: int, epoch: int, passed_over: list[str], device: str) -> None:
        """Write a start of the workers to the history of the run."""
        with self._writing() as where:
            if where is not None:
                line = {"event": "workers", "step": step, "epoch": epoch, "workers": dist.world_size()}
                line["device"] = device
                self._mirror.fetch("history.jsonl")  # the command may have written to it in the meantime
                append_line(where / "history.jsonl", line | ({"passed_over": passed_over} if passed_over else {}))
                self._mirror.send("metrics.jsonl", "history.jsonl")  # whoever sees the start sees no later steps

    def metrics(self, step: int, epoch: int, values: dict[str, float]) -> None:
        with self._writing() as where:
            if where is not None:
                line = {"step": step, "epoch": epoch} | {k: _significant(v) for k, v in values.items()}
                self._lines["metrics"].add(line)
                self._trackers.metrics(step, values)
                self._tell_of_trackers(step)
                self._send_metrics()

    def warning(self, step: int, text: str) -> None:
        with self._writing() as where:
            if where is not None:
                self._lines["warnings"].add({"step": step, "text": text})

    def samples(self, first_step: int, steps: list[list[Row]]) -> None:
        """Write one line per global step from this rank's rows of each step; must be called on every rank."""
        ranks = dist.gather_objects(steps)
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
        """At the first, middle and last step, save the crops of the same four videos with the same noise.

        Args:
            step: number of steps done before this one.
        """
        if step + 1 not in (1, max(1, total // 2), total):
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
        """Save ``state`` after ``epoch`` epochs and ``step`` steps; the records of these steps are sent first.

        A checkpoint ``within`` an epoch is removed by the next checkpoint.
        """
        name = NAME.format(epoch) + (WITHIN.format(step) if within else "")
        with self._writing() as where:
            if where is not None:
                if not self.owns_run():
                    raise PermissionError("another command has taken over this run")
                meta = {"epoch": epoch, "step": step, "workers": dist.world_size()}
                save_checkpoint(where / "checkpoints" / name, state, meta)
                self._mirror.send(*RECORDED, f"checkpoints/{name}/")
                self._remove_older(where / "checkpoints", name)

    def _remove_older(self, checkpoints: Path, name: str) -> None:
        """Remove checkpoints from within an epoch and, if a bucket keeps them all, all other local ones."""
        for older in checkpoints.glob("epoch=*"):
            within = "-step=" in older.name
            if older.name != name and (within or self._mirror.uri):
                shutil.rmtree(older)
                if within:
                    self._mirror.remove(f"checkpoints/{older.name}/")

    def stop_requested(self) -> bool:
        """Whether there is a file named ``stop`` in the run's folder; the same answer on every rank."""
        requested = False
        with self._writing() as where:
            if where is not None:
                self._mirror.fetch("stop")
                requested = (where / "stop").exists()
        return bool(dist.gather_objects(requested)[0])

    def stop_now(self) -> bool:
        """Whether the run is asked to end after the current step; only rank 0 knows, and others return False."""
        asked = False
        with self._writing() as where:
            if where is not None:
                if self._mirror.uri and time.monotonic() - self._looked > LOOK:
                    self._looked = time.monotonic()
                    with suppress(OSError):
                        self._mirror.fetch("stop", waits=())
                asked = asked_to_stop_now(where)
        return asked

    def close(self) -> None:
        with self._writing() as where:
            if where is not None:
                self._trackers.close()
                self._tell_of_trackers(self._step)
                if self._sending.is_alive():  # a process that exits while a thread uses S3 may crash
                    self._sending.join()
                for lines in self._lines.values():
                    lines.close()
                self._mirror.send(*RECORDED)

    def _tell_of_trackers(self, step: int) -> None:
        self._step = step
        for text in self._trackers.news():
            self._lines["warnings"].add({"step": step, "text": text})

    def _send_metrics(self) -> None:
        """Upload the metrics in the background every ``SEND`` seconds; a checkpoint uploads what was missed."""
        if self._mirror.uri and time.monotonic() - self._sent > SEND and not self._sending.is_alive():
            self._sent = time.monotonic()
            self._sending = Thread(target=_try_to_send_metrics, args=(self._mirror,), daemon=True)
            self._sending.start()

    @contextmanager
    def _writing(self) -> Iterator[Path | None]:
        """The folder if this rank writes, else None; an OSError inside becomes ``problem``."""
        try:
            yield None if self.problem or dist.rank() else self.folder
        except OSError as error:
            self.problem = f"cannot write to {self.folder}: {error.strerror or error}"

    def _remove_later_steps(self, where: Path, step: int) -> None:
        for name in LINES:
            cut_lines(where / f"{name}.jsonl", step)
        for path in (where / "crops").glob("step=*.npz"):
            if int(path.stem.partition("=")[2]) >= step:  # >=, because step=N is saved before step N runs
                path.unlink()


def _try_to_send_metrics(mirror: Mirror) -> None:
    with suppress(OSError):
        mirror.send("metrics.jsonl", "warnings.jsonl", waits=())


def _make_probe(batch: Batch) -> dict[str, Any]:
    first = batch.rows(slice(PROBE))
    tensors = {name: getattr(first, name).cpu().numpy() for name in ("video", "flip", "noise")}
    return {"id": np.array(first.id), **tensors}


def _first_probe(crops: Path) -> dict[str, Any]:
    """The videos that an earlier attempt saved, if any, so that a resumed run keeps drawing the same ones."""
    for path in sorted(crops.glob("step=*.npz")):
        with suppress(ValueError, KeyError), np.load(path) as kept:
            return {name: kept[name] for name in ("id", "video", "flip", "noise")}
    return {}


def _significant(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None  # JSON has no infinity
