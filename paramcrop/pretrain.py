"""The pretraining loop. It knows neither Ray, nor which framework, backbone or crop policy it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paramcrop import dist
from paramcrop.batch import Batch
from paramcrop.build import build_optimizer
from paramcrop.checkpoint import load_checkpoint
from paramcrop.config import Config
from paramcrop.errors import DecodeFailuresError, NonFiniteLossError, StorageError
from paramcrop.meter import Meter
from paramcrop.optim import set_lr
from paramcrop.record import Recorder, Row
from paramcrop.two_views import TwoViews, build_model, distribute

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
    total = config.total_steps(steps_per_epoch)
    warmup = min(round(config.optim.warmup_epochs * steps_per_epoch), total)
    meter = Meter(2 * config.train.global_batch)
    epoch, step, drawn = load_state(resume, model, optimizer, meter) if resume else (0, 0, None)
    wrapped = distribute(model, device)
    told = False
    while step < total:
        torch.manual_seed(epoch_seed(config.seed, epoch))
        if drawn is not None:
            torch.set_rng_state(drawn)
            drawn = None
        first, seen = step, list[list[Row]]()
        for batch in meter.timed(batches(epoch), min((epoch + 1) * steps_per_epoch, total) - step):
            check_order(batch, epoch, step - epoch * steps_per_epoch, config.train.global_batch)
            seen.append(rows_of(batch))
            set_lr(optimizer, step, total, warmup)
            moved = batch.to(device)
            recorder.crops(model, moved, step, total)
            try:
                loss, scalars = train_step(wrapped, moved, optimizer, step / total, config.optim.clip_norm)
            except NonFiniteLossError as error:
                raise NonFiniteLossError(f"{error} at step {step} (epoch {epoch}); run: {recorder.folder}") from None
            meter.add(loss)
            step += 1
            if step % config.run.log_every == 0 or step in (1, total):
                recorder.metrics(step, epoch, reduce_scalars(scalars) | learning_rates(optimizer) | meter.read())
                check_together(seen, recorder, config.data.max_failed, steps_per_epoch * config.train.global_batch)
                if going() and not told:
                    told = True
                    recorder.samples(first, seen)
                    first, seen = step, []
                    state = state_of(model, optimizer, meter) | {"drawn": torch.get_rng_state()}
                    recorder.checkpoint(state, epoch, step, within=True)
                    report({"epoch": epoch, "step": step})
        recorder.samples(first, seen)
        epoch += 1
        stop = recorder.stop_asked()
        due = stop or step == total or epoch % config.run.checkpoint_epochs == 0
        if due:
            recorder.checkpoint(state_of(model, optimizer, meter), epoch, step)
        check_together(seen, recorder, config.data.max_failed, steps_per_epoch * config.train.global_batch)
        if due:
            report(meter.read_checkpoint() | {"epoch": epoch, "step": step})
        if stop:
            break
    return model


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


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    return {("lr" if g["network"] else "lr_cropper"): g["lr"] for g in optimizer.param_groups}


def reduce_scalars(scalars: dict[str, Tensor]) -> dict[str, float]:
    """Means over ranks, in one exchange; called on every rank."""
    values = dist.mean_over_ranks(torch.stack([value.detach().float() for value in scalars.values()]))
    return dict(zip(scalars, values.tolist(), strict=True))
