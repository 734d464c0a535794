"""The pretraining loop. It knows neither Ray, nor which framework, backbone or crop policy it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paramcrop import dist
from paramcrop.data.batch import Batch
from paramcrop.errors import DecodeFailuresError, NonFiniteLossError, StorageError
from paramcrop.settings.config import Config
from paramcrop.storage.checkpoint import load_checkpoint
from paramcrop.training.build import build_optimizer
from paramcrop.training.meter import Meter
from paramcrop.training.optim import set_lr
from paramcrop.training.recorder import Recorder, Row
from paramcrop.training.two_views import TwoViews, build_model, distribute

Report = Callable[[dict[str, float]], None]


def train_step(
    model: nn.Module, batch: Batch, optimizer: Optimizer, progress: float, clip_norm: float | None = None
) -> tuple[float, dict[str, Tensor]]:
    """One update: descent for the network and, through the reversal, ascent for the croppers.

    Raises:
        NonFiniteLossError: before anything is updated, on every rank.
    """
    loss, scalars = model(batch, progress)
    losses = dist.values_of_ranks(loss)
    bad = (~losses.isfinite()).nonzero()[:, 0].tolist()
    if bad:
        raise NonFiniteLossError(f"the loss must be finite, but on rank {', '.join(map(str, bad))} it is not")
    optimizer.zero_grad()
    loss.backward()
    if clip_norm is not None:
        network = [p for g in optimizer.param_groups if g["network"] for p in g["params"]]
        scalars["grad_norm"] = nn.utils.clip_grad_norm_(network, clip_norm)
    optimizer.step()
    return losses.mean().item(), scalars


def pretrain(
    config: Config,
    batches: Callable[[int], Iterable[Batch]],
    steps_per_epoch: int,
    recorder: Recorder,
    report: Report = lambda metrics: None,
    device: torch.device | None = None,
    resume: Path | None = None,
    classes: Sequence[str] = (),
    going: Callable[[], bool] = lambda: False,
) -> TwoViews:
    """Train for ``config.train.epochs``, or until a file named ``stop`` lies in the run's folder at an epoch's end.

    Args:
        batches: epoch -> this rank's share of its global batches, in order; asked from the first epoch to be done, of
            which only those that are left are to be given.
        recorder: keeps metrics, ids, crops and checkpoints (rank 0's writes, the others' do nothing).
        report: called at every checkpoint, on every rank, with the means since the last one (a barrier under Ray).
        resume: the checkpoint to go on from, of a run with the same settings; on the CPU, with as many ranks (one or
            two: more may add in another order), the result is that of a run that was never interrupted, bit for bit.
        classes: names of the videos' classes, for method=mean_teacher.
        going: whether a machine is about to be taken away; asked with each line of metrics, on every rank. The first
            time that it is, a checkpoint is taken at once, within the epoch.

    Raises:
        NonFiniteLossError: names the step and the ranks.
        DecodeFailuresError: more samples than ``data.max_failed`` allows could not be decoded.
        StorageError: the run's folder cannot be written to.
        These are raised on every rank at the same step.
    """
    device = device or torch.device("cpu")
    model = build_model(config, device, classes)
    optimizer = build_optimizer(config, model.policy, model.method)
    meter = Meter(2 * config.train.global_batch)
    epoch, step, drawn = load_state(resume, model, optimizer, meter) if resume else (0, 0, None)
    course = Course(config, steps_per_epoch, recorder, model, distribute(model, device), optimizer, meter, epoch, step)
    while course.step < course.total:
        torch.manual_seed(epoch_seed(config.seed, course.epoch))
        if drawn is not None:
            torch.set_rng_state(drawn)
            drawn = None
        pass_epoch(course, batches(course.epoch), device, going, report)
        if end_epoch(course, report):
            break
    return model


@dataclass
class Course:
    """A training on its way.

    Attributes:
        model: what is trained; wrapped: the same, for several processes.
        epoch, step: done so far. first: the step after which ``seen``, this rank's rows since then, begins.
        told: that a machine is about to go, and a checkpoint was taken for it.
    """

    config: Config
    steps_per_epoch: int
    recorder: Recorder
    model: TwoViews
    wrapped: nn.Module
    optimizer: Optimizer
    meter: Meter
    epoch: int
    step: int
    first: int = 0
    seen: list[list[Row]] = field(default_factory=list)
    told: bool = False

    @property
    def total(self) -> int:
        return self.config.total_steps(self.steps_per_epoch)

    @property
    def warmup(self) -> int:
        return min(round(self.config.optim.warmup_epochs * self.steps_per_epoch), self.total)

    def check(self) -> None:
        """What any rank cannot go on with, raised on every rank; see ``check_together``."""
        rows = self.steps_per_epoch * self.config.train.global_batch
        check_together(self.seen, self.recorder, self.config.data.max_failed, rows)


def pass_epoch(
    course: Course, batches: Iterable[Batch], device: torch.device, going: Callable[[], bool], report: Report
) -> None:
    """The steps that an epoch still has."""
    config, c = course.config, course
    c.first, c.seen = c.step, []
    for batch in c.meter.timed(batches, min((c.epoch + 1) * c.steps_per_epoch, c.total) - c.step):
        check_order(batch, c.epoch, c.step - c.epoch * c.steps_per_epoch, config.train.global_batch)
        c.seen.append(rows_of(batch))
        set_lr(c.optimizer, c.step, c.total, c.warmup)
        moved = batch.to(device)
        c.recorder.crops(c.model, moved, c.step, c.total)
        try:
            loss, scalars = train_step(c.wrapped, moved, c.optimizer, c.step / c.total, config.optim.clip_norm)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"{error} at step {c.step} (epoch {c.epoch}); run: {c.recorder.folder}") from None
        c.meter.add(loss)
        c.step += 1
        if c.step % config.run.log_every == 0 or c.step in (1, c.total):
            means = reduce_scalars(scalars) | learning_rates(c.optimizer) | c.meter.read()
            c.recorder.metrics(c.step, c.epoch, means)
            c.check()
            if going() and not c.told:
                keep_within(course, report)


def keep_within(course: Course, report: Report) -> None:
    """A checkpoint at once, from which not even the epoch is begun again."""
    c = course
    c.told = True
    c.recorder.samples(c.first, c.seen)
    c.first, c.seen = c.step, []
    state = state_of(c.model, c.optimizer, c.meter) | {"drawn": torch.get_rng_state()}
    c.recorder.checkpoint(state, c.epoch, c.step, within=True)
    report({"epoch": c.epoch, "step": c.step})


def end_epoch(course: Course, report: Report) -> bool:
    """Keep what is to be kept -> whether the run was asked to stop."""
    c = course
    c.recorder.samples(c.first, c.seen)
    c.epoch += 1
    stop = c.recorder.stop_asked()
    due = stop or c.step == c.total or c.epoch % c.config.run.checkpoint_epochs == 0
    if due:
        c.recorder.checkpoint(state_of(c.model, c.optimizer, c.meter), c.epoch, c.step)
    c.check()
    if due:
        report(c.meter.read_checkpoint() | {"epoch": c.epoch, "step": c.step})
    return stop


def state_of(model: TwoViews, optimizer: Optimizer, meter: Meter) -> dict[str, Any]:
    """All that a step depends on, besides its batch; random numbers are drawn anew each epoch (``epoch_seed``)."""
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "meter": meter.state()}


def load_state(checkpoint: Path, model: TwoViews, optimizer: Optimizer, meter: Meter) -> tuple[int, int, Tensor | None]:
    """Put a checkpoint's state in place -> epochs and steps done; of one within an epoch, torch's random state."""
    state, meta = load_checkpoint(checkpoint)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    meter.load_state(state["meter"])
    return meta["epoch"], meta["step"], state.get("drawn")


def epoch_seed(seed: int, epoch: int) -> int:
    """Torch's seed for an epoch on this rank, so that a resumed epoch draws what it would have drawn."""
    digest = hashlib.sha256(f"torch/{seed}/{epoch}/{dist.rank()}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    return {("lr" if g["network"] else "lr_cropper"): g["lr"] for g in optimizer.param_groups}


def reduce_scalars(scalars: dict[str, Tensor]) -> dict[str, float]:
    """Means over ranks, in one exchange; called on every rank."""
    values = dist.mean_over_ranks(torch.stack([value.detach().float() for value in scalars.values()]))
    return dict(zip(scalars, values.tolist(), strict=True))


def rows_of(batch: Batch) -> list[Row]:
    return [Row(*row) for row in zip(batch.position.tolist(), batch.id, batch.error, batch.substitute, strict=True)]


def check_order(batch: Batch, epoch: int, step: int, global_batch: int) -> None:
    """Every row must belong to this epoch and global step: our own promise, whatever the loader did."""
    if not (bool((batch.epoch == epoch).all()) and bool((batch.position // global_batch == step).all())):
        found = batch.epoch.unique().tolist(), (batch.position // global_batch).unique().tolist()
        raise AssertionError(f"rows must be of epoch {epoch}, step {step}, but are of epochs and steps {found}")


def check_together(seen: list[list[Row]], recorder: Recorder, max_failed: float, rows: int) -> None:
    """What any rank cannot go on with, raised on every rank; an exchange.

    Args:
        seen: this rank's rows of the epoch so far. rows: of a whole epoch, over all ranks.

    Raises:
        DecodeFailuresError, StorageError: see ``pretrain``.
    """
    failed = [f"{row.id} ({row.error})" for step in seen for row in step if row.error]
    ranks = dist.gather_objects((failed, recorder.trouble))
    trouble = next((text for _, text in ranks if text), "")
    if trouble:
        raise StorageError(f"{trouble}; mend that and run the same command: it goes on from the last checkpoint")
    check_failures([text for texts, _ in ranks for text in texts], max_failed, rows)


def check_failures(failed: list[str], max_failed: float, rows: int) -> None:
    """Raises:
    DecodeFailuresError: of an epoch's ``rows``, more than ``max_failed`` have been filled by substitutes so far.
    """
    if len(failed) > max_failed * rows:
        raise DecodeFailuresError(
            f"at most data.max_failed={max_failed} of {rows} samples may fail to decode, but {len(failed)} did: "
            + "; ".join(failed[:5])
        )
