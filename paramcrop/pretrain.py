"""The pretraining loop. It knows neither Ray, nor which framework, backbone or crop policy it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paramcrop import dist
from paramcrop.batch import Batch
from paramcrop.build import build_optimizer
from paramcrop.config import Config
from paramcrop.errors import DataError, NonFiniteLossError
from paramcrop.meter import Meter
from paramcrop.optim import set_lr
from paramcrop.record import Recorder
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
) -> TwoViews:
    """Train for ``config.train.epochs``.

    Args:
        batches: epoch -> this rank's share of its global batches, in order.
        recorder: keeps metrics, ids, crops and checkpoints (rank 0's writes, the others' do nothing).
        report: called at every checkpoint, on every rank, with the means since the last one (a barrier under Ray).

    Raises:
        NonFiniteLossError: names the step and the ranks.
        DataError: more samples than ``data.max_failed`` allows could not be decoded.
    """
    device = device or torch.device("cpu")
    model = build_model(config, device)
    optimizer = build_optimizer(config, model.policy, model.method)
    wrapped = distribute(model, device)
    total = config.total_steps(steps_per_epoch)
    warmup = min(round(config.optim.warmup_epochs * steps_per_epoch), total)
    meter = Meter(2 * config.train.global_batch)
    step = 0
    for epoch in range(math.ceil(total / steps_per_epoch)):
        seen: list[list[tuple[int, str, str]]] = []
        failed: list[str] = []
        for batch in meter.timed(batches(epoch), min(steps_per_epoch, total - step)):
            check_order(batch, epoch, step - epoch * steps_per_epoch, config.train.global_batch)
            seen.append(list(zip(batch.position.tolist(), batch.id, batch.error, strict=True)))
            failed += [f"{video} ({error})" for video, error in zip(batch.id, batch.error, strict=True) if error]
            check_failures(failed, config.data.max_failed, steps_per_epoch * config.batch_per_worker)
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
        recorder.samples(epoch * steps_per_epoch, seen)
        if step == total or (epoch + 1) % config.run.checkpoint_epochs == 0:
            recorder.checkpoint(model, optimizer, epoch, step)
            report(meter.read_checkpoint() | {"epoch": epoch, "step": step})
    return model


def check_order(batch: Batch, epoch: int, step: int, global_batch: int) -> None:
    """Every row must belong to this epoch and global step: our own promise, whatever the loader did."""
    if not (bool((batch.epoch == epoch).all()) and bool((batch.position // global_batch == step).all())):
        found = batch.epoch.unique().tolist(), (batch.position // global_batch).unique().tolist()
        raise AssertionError(f"rows must be of epoch {epoch}, step {step}, but are of epochs and steps {found}")


def check_failures(failed: list[str], max_failed: float, rows: int) -> None:
    """Raises:
    DataError: of an epoch's ``rows`` on this rank, more than ``max_failed`` have been filled by substitutes so far.
    """
    if len(failed) > max_failed * rows:
        raise DataError(
            f"at most data.max_failed={max_failed} of {rows} samples may fail to decode, but {len(failed)} did: "
            + "; ".join(failed[:5])
        )


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    return {("lr" if g["network"] else "lr_cropper"): g["lr"] for g in optimizer.param_groups}


def reduce_scalars(scalars: dict[str, Tensor]) -> dict[str, float]:
    """Means over ranks, in one exchange; called on every rank."""
    values = dist.mean_over_ranks(torch.stack([value.detach().float() for value in scalars.values()]))
    return dict(zip(scalars, values.tolist(), strict=True))
