"""The pretraining loop. It does not depend on Ray, or on the framework, backbone and crop policy that it trains."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paramcrop import dist
from paramcrop.data.batch import Batch, check_order
from paramcrop.errors import DecodeFailuresError, NonFiniteLossError, StorageError
from paramcrop.settings.config import Config
from paramcrop.storage.checkpoint import load_checkpoint
from paramcrop.training.build import build_optimizer, build_plateau
from paramcrop.training.gpu.ahead import ahead
from paramcrop.training.meter import Meter
from paramcrop.training.optim import learning_rates, load_optimizer, set_lr
from paramcrop.training.recorder import Recorder, Row
from paramcrop.training.step import Stepper
from paramcrop.training.telemetry import Probe, Telemetry, Watch
from paramcrop.training.tracking.profile import Profiled, profiled
from paramcrop.training.two_views import TwoViews, build_model, compile_network, distribute

Report = Callable[[dict[str, float]], None]
Wanted = Callable[[], Hashable]


def train_step(
    model: nn.Module, batch: Batch, optimizer: Optimizer, progress: float
) -> tuple[float, dict[str, Tensor]]:
    """One update by a ``Stepper``, whose loss is waited for.

    Returns:
        The mean loss over ranks, and this rank's scalars to log.

    Raises:
        NonFiniteLossError: the loss of a rank is not finite; raised on every rank, and nothing is updated.
    """
    stepper = Stepper(model, optimizer)
    loss, scalars = stepper.take(batch, progress, 0)
    stepper.check()
    return loss.item(), scalars


def pretrain(
    config: Config,
    batches: Callable[[int], Iterable[Batch]],
    steps_per_epoch: int,
    recorder: Recorder,
    report: Report = lambda metrics: None,
    device: torch.device | None = None,
    resume: Path | None = None,
    classes: Sequence[str] = (),
    preempted: Wanted = lambda: None,
    probe: Probe | None = None,
) -> TwoViews:
    """Train for ``config.train.epochs`` epochs, or until the run is asked to stop (``paramcrop.storage.runs``).

    Args:
        batches: epoch -> this rank's share of the epoch's global batches, in order. The first call may be for an epoch
            that was interrupted; it must yield only the remaining batches.
        recorder: writes metrics, video ids, crops and checkpoints; only the one on rank 0 writes.
        report: called on every rank at every checkpoint with the means since the last one (a barrier under Ray).
        resume: a checkpoint of a run with the same settings, to continue from. On CPUs with the same number of ranks,
            one or two, the result equals that of an uninterrupted run bit for bit. (With more ranks, the order of a sum
            may differ.)
        classes: class names of the videos, for method=mean_teacher.
        preempted: why a checkpoint is wanted at once, within the epoch, such as that a machine is about to be taken
            away; nothing: it is not. Called on every rank with each line of metrics; each reason gives one checkpoint.
        probe: called on rank 0 with the backbone at the first, the last and every ``config.probe.every``-th step, to
            log what it returns. What the run computes does not depend on it; if it fails, the run goes on without it.

    Raises:
        NonFiniteLossError: the loss is not finite; the text names the step and the ranks.
        DecodeFailuresError: more samples than ``data.max_failed`` allows could not be decoded.
        StorageError: the run's folder is not writable.
        Each is raised on every rank at the same step.
    """
    device = device or torch.device("cpu")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # pays because all steps have the same sizes
    model = build_model(config, device, classes, config.total_steps(steps_per_epoch) / steps_per_epoch)
    if config.train.compile:
        compile_network(model.method, device)
    optimizer = build_optimizer(config, model.policy, model.method)
    meter = Meter(2 * config.train.global_batch)
    epoch, step, rng_state = load_state(resume, model, optimizer, meter) if resume else (0, 0, None)
    recorded = device.type == "cuda" and dist.world_size() == 1 and model.recordable
    steps = recorder.folder, config.train.profile, config.total_steps(steps_per_epoch), device.type == "cuda"
    stepper = profiled(Stepper(distribute(model, device, config.elastic), optimizer, recorded), *steps)
    telemetry, plateau = Telemetry(model.method, optimizer), build_plateau(config, len(classes))
    watch = Watch(telemetry, plateau, probe, config.probe.every, step)
    state = TrainingState(config, steps_per_epoch, recorder, model, stepper, optimizer, meter, watch, epoch, step)
    while state.step < state.total:
        # A seed per epoch makes every epoch independent of how the run got there. Only a checkpoint from within an
        # epoch has to restore torch's random state as well.
        torch.manual_seed(epoch_seed(config.seed, state.epoch))
        if rng_state is not None:
            torch.set_rng_state(rng_state)
            rng_state = None
        run_epoch(state, batches(state.epoch), device, preempted, report)
        if state.interrupted or finish_epoch(state, report):
            break
    telemetry.close()
    return model


@dataclass
class TrainingState:
    """A training run in progress.

    Attributes:
        model: the model; stepper: takes its steps; watch: looks at them.
        epoch, step: finished epochs and steps.
        rows: this rank's rows of each step since ``first_step``, not yet passed to the recorder.
        saved_for: the reasons for which a checkpoint was wanted at once and has been written.
        interrupted: whether a request to end at once has ended the run within an epoch, with a checkpoint.
    """

    config: Config
    steps_per_epoch: int
    recorder: Recorder
    model: TwoViews
    stepper: Stepper | Profiled
    optimizer: Optimizer
    meter: Meter
    watch: Watch
    epoch: int
    step: int
    first_step: int = 0
    rows: list[list[Row]] = field(default_factory=list)
    saved_for: set[Hashable] = field(default_factory=set)
    interrupted: bool = False

    @property
    def total(self) -> int:
        return self.config.total_steps(self.steps_per_epoch)

    @property
    def warmup(self) -> int:
        return min(round(self.config.optim.warmup_epochs * self.steps_per_epoch), self.total)

    def check(self) -> None:
        """Raise on every rank if any rank cannot continue; see ``check_all_ranks``."""
        rows = self.steps_per_epoch * self.config.train.global_batch
        check_all_ranks(self.rows, self.recorder, self.config.data.max_failed, rows)


def run_epoch(
    state: TrainingState, batches: Iterable[Batch], device: torch.device, preempted: Wanted, report: Report
) -> None:
    """Run the remaining steps of an epoch, or fewer if the run is asked to end at once."""
    config, s = state.config, state
    s.first_step, s.rows = s.step, []
    last = min((s.epoch + 1) * s.steps_per_epoch, s.total)
    left = last - s.step
    for batch in s.meter.timed(ahead(islice(batches, left), device), left):
        check_order(batch, s.epoch, s.step - s.epoch * s.steps_per_epoch, config.train.global_batch)
        s.rows.append(rows_of(batch))
        set_lr(s.optimizer, s.step, s.total, s.warmup)
        s.recorder.crops(s.model, batch, s.step, s.total)
        with naming_run(state):
            loss, scalars = s.stepper.take(batch, s.step / s.total, s.step + 1)
        s.meter.add(loss)
        s.step += 1
        logged = s.step % config.run.log_every == 0 or s.step in (1, s.total)
        if logged:
            means = dist.mean_scalars(s.watch.telemetry.read() | scalars)
            log(state, means | learning_rates(s.optimizer) | s.meter.read())
            s.check()
            # Each rank hears of it at a time of its own, and the checkpoint needs all of them.
            if reasons := set(filter(None, dist.gather_objects(preempted()))) - s.saved_for:
                save_within_epoch(state, report)
                s.saved_for |= reasons
        # Asking all ranks costs about a millisecond, and on GPUs it waits for the step.
        asks = logged or device.type == "cpu" or dist.world_size() == 1
        if asks and s.step < last and any(dist.gather_objects(s.recorder.stop_now())):
            save_within_epoch(state, report)
            s.interrupted = True
            return


def log(state: TrainingState, means: dict[str, float]) -> None:
    """Write a line of metrics, with a probe if one is due, and warnings if there are any."""
    s, start = state, time.perf_counter()
    figures, warnings = s.watch.look(s.step, s.total, means, s.model.method.backbone)
    s.meter.leave_out(time.perf_counter() - start)
    s.recorder.metrics(s.step, s.epoch, means | figures)
    for text in warnings:
        s.recorder.warning(s.step, text)


@contextmanager
def naming_run(state: TrainingState) -> Iterator[None]:
    """Add the epoch and the run to the message of a ``NonFiniteLossError``."""
    try:
        yield
    except NonFiniteLossError as error:
        raise NonFiniteLossError(f"{error} (epoch {state.epoch + 1}); run: {state.recorder.folder}") from None


def save_within_epoch(state: TrainingState, report: Report) -> None:
    """Write a checkpoint now, from which the run continues in the middle of the epoch."""
    s = state
    with naming_run(state):
        s.stepper.check()
    s.recorder.samples(s.first_step, s.rows)
    s.first_step, s.rows = s.step, []
    checkpoint = collect_state(s.model, s.optimizer, s.meter) | {"drawn": dist.gather_objects(torch.get_rng_state())}
    s.recorder.checkpoint(checkpoint, s.epoch, s.step, within=True)
    report({"epoch": s.epoch, "step": s.step})


def finish_epoch(state: TrainingState, report: Report) -> bool:
    """Write the epoch's samples and, if it is due, a checkpoint -> whether a stop was requested."""
    s = state
    with naming_run(state):
        s.stepper.check()
    s.recorder.samples(s.first_step, s.rows)
    s.epoch += 1
    stop = s.recorder.stop_requested()
    due = stop or s.step == s.total or s.epoch % s.config.run.checkpoint_epochs == 0
    if due:
        s.recorder.checkpoint(collect_state(s.model, s.optimizer, s.meter), s.epoch, s.step)
    s.check()  # before the report: a checkpoint that could not be written must not be reported
    if due:
        report(s.meter.read_checkpoint() | {"epoch": s.epoch, "step": s.step})
    return stop


def collect_state(model: TwoViews, optimizer: Optimizer, meter: Meter) -> dict[str, Any]:
    """Everything that later steps depend on, except the batches and the seed of each epoch (``epoch_seed``)."""
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "meter": meter.state()}


def load_state(checkpoint: Path, model: TwoViews, optimizer: Optimizer, meter: Meter) -> tuple[int, int, Tensor | None]:
    """Load a checkpoint -> finished epochs and steps, and torch's random state if it was saved within an epoch."""
    state, meta = load_checkpoint(checkpoint)
    model.load_state_dict(state["model"])
    load_optimizer(optimizer, state["optimizer"])
    meter.load_state(state["meter"])
    return meta["epoch"], meta["step"], own_random_state(state.get("drawn"))


def own_random_state(drawn: Sequence[Tensor] | None) -> Tensor | None:
    """This rank's part of the random states of all ranks; None: there is none, or there were fewer or more ranks.

    With other ranks the rest of the epoch goes on from the epoch's seed, as its beginning did.
    """
    return drawn[dist.rank()] if drawn is not None and len(drawn) == dist.world_size() else None


def epoch_seed(seed: int, epoch: int) -> int:
    """Torch's seed for an epoch on this rank: a resumed run draws the same random numbers as an uninterrupted one."""
    digest = hashlib.sha256(f"torch/{seed}/{epoch}/{dist.rank()}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def rows_of(batch: Batch) -> list[Row]:
    return [Row(*row) for row in zip(batch.position.tolist(), batch.id, batch.error, batch.substitute, strict=True)]


def check_all_ranks(steps: list[list[Row]], recorder: Recorder, max_failed: float, rows: int) -> None:
    """Raise on every rank if any rank cannot continue. This is an exchange: every rank must call it.

    Args:
        steps: this rank's rows of each step of the epoch so far.
        rows: number of rows in an epoch, over all ranks.

    Raises:
        DecodeFailuresError, StorageError: see ``pretrain``.
    """
    failed = [f"{row.id} ({row.error})" for step in steps for row in step if row.error]
    ranks = dist.gather_objects((failed, recorder.problem))
    problem = next((text for _, text in ranks if text), "")
    if problem:
        raise StorageError(f"{problem}; fix this and run the same command: it continues from the last checkpoint")
    check_failures([text for texts, _ in ranks for text in texts], max_failed, rows)


def check_failures(failed: list[str], max_failed: float, rows: int) -> None:
    """Raises:
    DecodeFailuresError: more than ``max_failed`` of the ``rows`` rows of an epoch have failed so far.
    """
    if len(failed) > max_failed * rows:
        raise DecodeFailuresError(
            f"{len(failed)} of {rows} samples could not be decoded, more than data.max_failed={max_failed} allows: "
            + "; ".join(failed[:5])
        )
