"""One training step. On a GPU, the CPU never waits for the step that it has just launched."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paramcrop import dist
from paramcrop.data.batch import Batch
from paramcrop.errors import NonFiniteLossError
from paramcrop.models.layers import has_triton
from paramcrop.training.gpu.graphs import Recorded
from paramcrop.training.optim import parts_of


class Late(NamedTuple):
    """The losses of all ranks at a step, while they are copied to the CPU."""

    step: int
    losses: Tensor
    arrived: torch.cuda.Event | None


class Stepper:
    """Takes steps: gradient descent for the network and, through the reversal, ascent for the croppers.

    A step whose loss is not finite on any rank updates nothing. On a CPU it raises an error at once. On a GPU the
    optimizer skips the update without waiting, and the error comes one step later: from the next ``take``, before it
    updates anything, or from ``check``.

    Args:
        model: (batch, progress) -> loss of this rank and scalars to log; in DDP if there are several ranks.
        optimizer: its groups have ``network`` and ``clip_norm``, see ``network_groups``.
        recorded: on a GPU, replay the forward and backward pass as a CUDA graph; ``Recorded`` says what this requires.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, recorded: bool = False) -> None:
        self.model, self.optimizer = model, optimizer
        self.graph = Recorded(self._differentiate) if recorded else None
        self.late: Late | None = None

    def take(self, batch: Batch, progress: float, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """One update -> the mean loss over ranks and this rank's scalars, on the model's device.

        Raises:
            NonFiniteLossError: names the ranks and the step, on a GPU the one before; raised on every rank.
        """
        if batch.noise.is_cuda and has_triton():
            return self.take_without_waiting(batch, progress, step)
        loss, scalars = self.model(batch, progress)
        # Every rank sees every loss: if only one rank stopped, the others would hang in the next exchange of gradients.
        losses = dist.values_of_ranks(loss)
        check_finite(losses, step)
        self.optimizer.zero_grad()
        loss.backward()
        self._update(scalars)
        return losses.mean(), scalars

    def check(self) -> None:
        """Wait for the loss of the last step.

        Raises:
            NonFiniteLossError: see ``take``.
        """
        if self.late is not None:
            late, self.late = self.late, None
            if late.arrived is not None:
                late.arrived.synchronize()
            check_finite(late.losses, late.step)

    def take_without_waiting(self, batch: Batch, progress: float, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """``take`` on a GPU."""
        loss, scalars = (self.graph or self._differentiate)(batch, progress)
        losses = dist.values_of_ranks(loss)
        self.optimizer.found_inf = (~losses.isfinite()).any().float()  # type: ignore[attr-defined]  # torch's convention
        self.check()  # waits for the step before, while this one is already in the GPU's queue
        self._update(scalars)
        self.late = Late(step, *to_cpu(losses))
        return losses.mean(), scalars

    def _differentiate(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        self.optimizer.zero_grad()  # to None, so that a recorded step allocates its gradients in the graph's memory
        loss, scalars = self.model(batch, progress)
        loss.backward()
        return loss.detach(), scalars

    def _update(self, scalars: dict[str, Tensor]) -> None:
        scalars |= clip_gradients(self.optimizer)
        self.optimizer.step()


def clip_gradients(optimizer: Optimizer) -> dict[str, Tensor]:
    """Clip the gradients of the network and of the croppers where they have a ``clip_norm`` -> their norms before."""
    norms = dict[str, Tensor]()
    for name, groups in parts_of(optimizer).items():
        if (most := groups[0].get("clip_norm")) is not None:
            norms[name] = nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], most)
    return norms


def check_finite(losses: Tensor, step: int) -> None:
    """Raises:
    NonFiniteLossError: the loss of a rank is not finite.
    """
    bad = (~losses.isfinite()).nonzero()[:, 0].tolist()
    if bad:
        value, ranks = losses[bad[0]].item(), ", ".join(map(str, bad))
        raise NonFiniteLossError(f"the loss must be finite, but is {value} on rank {ranks} at step {step}")


def to_cpu(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Start a copy to the CPU -> the copy, and the event of its arrival; None: it has arrived."""
    if not values.is_cuda:
        return values.clone(), None
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    copy.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return copy, event
