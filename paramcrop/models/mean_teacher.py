"""Mean Teacher (Tarvainen and Valpola, 2017) with one crop for the student and one for the teacher: Section 4.3.

The paper states only the results in Table 6. All constants are settings whose defaults are those of Mean Teacher.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramcrop.errors import CheckpointError

UNLABELLED = -1


def squared_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the softmax of two logits (B, C), mean over videos and classes -> scalar."""
    return F.mse_loss(student.softmax(1), teacher.softmax(1))


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of the softmax of two logits (B, C), mean over videos -> scalar.

    The authors' code divides the squared difference by the number of classes, and this by nothing.
    """
    return F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)


CONSISTENCIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": squared_difference, "kl": divergence}


def supervised_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C), mean over all B rows; rows with label -1 count as zero."""
    return F.cross_entropy(logits, label, ignore_index=UNLABELLED, reduction="sum") / len(label)


def ramp_up(progress: float, share: float) -> float:
    """exp(-5 (1 - p / share)^2) while progress p < ``share``, then 1; both are fractions of training, in [0, 1]."""
    return math.exp(-5 * (1 - progress / share) ** 2) if progress < share else 1.0


class MeanTeacher(nn.Module):
    """A student that learns from labels and from consistency with the teacher, its moving average.

    The croppers maximise the consistency loss only: the cross-entropy does not reach the student's crop. The weights of
    the teacher take no gradient, but its input does, so both croppers learn.

    Args:
        backbone: (B, 3, T, H, W) -> (B, features).
        head: (B, features) -> (B, C) logits.
        classes: C names, saved with the weights.
        momentum: of the teacher. Step k uses min(1 - 1 / (k + 1), momentum), so that the teacher forgets the initial
            weights. The teacher has its own batch norm statistics; they are not averaged.
        weight: weight of the consistency loss after the ramp.
        ramp: length of the ramp, as a fraction of training.
        consistency: one of ``CONSISTENCIES``.
        dtype: autocast type of the networks; float32: no autocast.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        classes: Sequence[str],
        momentum: float = 0.999,
        weight: float = 100.0,
        ramp: float = 0.05,
        consistency: str = "mse",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.classes, self.dtype = backbone, head, tuple(classes), dtype
        self.momentum, self.weight, self.ramp, self.consistency = momentum, weight, ramp, CONSISTENCIES[consistency]
        self.teacher_backbone, self.teacher_head = copy.deepcopy(backbone), copy.deepcopy(head)
        for p in [*self.teacher_backbone.parameters(), *self.teacher_head.parameters()]:
            p.requires_grad_(False)
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(
        self, view_1: Tensor, view_2: Tensor, label: Tensor, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Views (B, 3, T, H, W) of student and teacher -> loss of this rank and scalars to log.

        Args:
            label: int64 (B,), class numbers; -1: the label is hidden.
            progress: fraction of training done, in [0, 1].
        """
        self.update_teacher()
        # Detached copies: the loss below must not reach the crops, except through pass_gradient().
        copies = [view.detach().requires_grad_(view.requires_grad) for view in (view_1, view_2)]
        with torch.autocast(view_1.device.type, self.dtype, enabled=self.dtype != torch.float32):
            student = self.head(self.backbone(copies[0])).float()
            teacher = self.teacher_head(self.teacher_backbone(copies[1])).float()
        supervised = supervised_loss(student, label)
        weight = self.weight * ramp_up(progress, self.ramp)
        difference = self.consistency(student, teacher.detach())
        loss = supervised + weight * difference
        if view_1.requires_grad or view_2.requires_grad:
            loss = loss + pass_gradient(weight * self.consistency(student, teacher), copies, (view_1, view_2))
        scalars = {"supervised": supervised, "consistency": difference, "consistency_weight": loss.new_tensor(weight)}
        scalars |= {"labelled_accuracy": labelled_accuracy(student, label)}
        return loss, {name: value.detach() for name, value in scalars.items()}

    @torch.no_grad()
    def update_teacher(self) -> None:
        """Move the teacher towards the student of the previous step; the first call copies the student."""
        momentum = torch.minimum(1 - 1 / (self.steps + 1), torch.tensor(self.momentum, device=self.steps.device))
        for mine, other in ((self.backbone, self.teacher_backbone), (self.head, self.teacher_head)):
            for p, p_teacher in zip(mine.parameters(), other.parameters(), strict=True):
                p_teacher.lerp_(p, (1 - momentum).to(p.dtype))
        self.steps += 1

    def get_extra_state(self) -> dict[str, Any]:
        return {"classes": list(self.classes)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Raises:
        CheckpointError: the weights were trained on other classes, or on the same classes in another order.
        """
        if tuple(state["classes"]) != self.classes:
            raise CheckpointError(
                f"the weights must belong to the classes {self.classes[:3]}..., but belong to {state['classes']}"
            )


def pass_gradient(loss: Tensor, copies: Sequence[Tensor], views: Sequence[Tensor]) -> Tensor:
    """A zero whose gradient with respect to ``views`` is that of ``loss`` with respect to their ``copies``.

    It has no other gradient. So one loss trains the croppers and another the weights, in a single backward pass, which
    DDP requires.
    """
    grads = torch.autograd.grad(loss, [x for x in copies if x.requires_grad], retain_graph=True)
    learned = [view for view in views if view.requires_grad]
    parts = [((view - view.detach()) * grad).sum() for view, grad in zip(learned, grads, strict=True)]
    return torch.stack(parts).sum()


def labelled_accuracy(logits: Tensor, label: Tensor) -> Tensor:
    """Top-1 accuracy over the labelled rows; 0 if there is none."""
    shown = label != UNLABELLED
    right = (logits.argmax(1) == label) & shown
    return right.sum() / shown.sum().clamp(min=1)
