"""Mean Teacher (Tarvainen and Valpola, 2017), student and teacher each with a crop of its own: the paper's Section 4.3.

The paper gives Table 6 and no number besides; constants are settings, their defaults those of the method's authors.
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
    """Mean over videos and classes of the squared difference of the softmaxes of two logits (B, C) -> scalar."""
    return F.mse_loss(student.softmax(1), teacher.softmax(1))


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over videos of KL(teacher's softmax || student's), over the number of classes: logits (B, C) -> scalar."""
    shares = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)
    return shares / student.shape[1]


CONSISTENCIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": squared_difference, "kl": divergence}


def supervised_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy (B, C) of the labelled rows, summed, over B: rows of label -1 count as zero."""
    return F.cross_entropy(logits, label, ignore_index=UNLABELLED, reduction="sum") / len(label)


def ramp_up(progress: float, share: float) -> float:
    """exp(-5 (1 - p / share)^2) up to the ``share`` of training, then 1; ``progress`` p in [0, 1]."""
    return math.exp(-5 * (1 - progress / share) ** 2) if progress < share else 1.0


class MeanTeacher(nn.Module):
    """A student that learns from labels and from agreeing with its own moving average, the teacher.

    The croppers ascend the consistency alone: cross-entropy does not reach the student's crop. The teacher's weights
    take no gradient, but its input does, so that both croppers move.

    Args:
        backbone: (B, 3, T, H, W) -> (B, features). head: (B, features) -> (B, C) logits.
        classes: C names, kept with the weights.
        momentum: of the teacher; in its first steps less, min(1 - 1 / (step + 1), momentum), so that it forgets the
            first weights. Batch norm's statistics are the teacher's own, not averaged.
        weight: of the consistency once it is ramped up. ramp: the share of training that this takes.
        consistency: one of ``CONSISTENCIES``.
        dtype: of the networks under autocast; float32: no autocast.
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
        """The student's and the teacher's view (B, 3, T, H, W) of the same videos -> this rank's loss and its scalars.

        Args:
            label: int64 (B,), class numbers; -1 where the label is not shown.
            progress: share of training done, in [0, 1].
        """
        self.follow()
        apart = [view.detach().requires_grad_(view.requires_grad) for view in (view_1, view_2)]
        with torch.autocast(view_1.device.type, self.dtype, enabled=self.dtype != torch.float32):
            student = self.head(self.backbone(apart[0])).float()
            teacher = self.teacher_head(self.teacher_backbone(apart[1])).float()
        supervised = supervised_loss(student, label)
        weight = self.weight * ramp_up(progress, self.ramp)
        difference = self.consistency(student, teacher.detach())
        loss = supervised + weight * difference
        if view_1.requires_grad or view_2.requires_grad:
            loss = loss + to_views(weight * self.consistency(student, teacher), apart, (view_1, view_2))
        scalars = {"supervised": supervised, "consistency": difference, "consistency_weight": loss.new_tensor(weight)}
        scalars |= {"labelled_accuracy": labelled_accuracy(student, label)}
        return loss, {name: value.detach() for name, value in scalars.items()}

    @torch.no_grad()
    def follow(self) -> None:
        """Move the teacher towards the student as it is after the step before; the first time, onto it."""
        momentum = torch.minimum(1 - 1 / (self.steps + 1), torch.tensor(self.momentum, device=self.steps.device))
        for mine, other in ((self.backbone, self.teacher_backbone), (self.head, self.teacher_head)):
            for p, p_teacher in zip(mine.parameters(), other.parameters(), strict=True):
                p_teacher.lerp_(p, (1 - momentum).to(p.dtype))
        self.steps += 1

    def get_extra_state(self) -> dict[str, Any]:
        return {"classes": list(self.classes)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Raises:
        CheckpointError: the weights are of other classes, or of another order of them.
        """
        if tuple(state["classes"]) != self.classes:
            raise CheckpointError(
                f"weights must be of the classes {self.classes[:3]}..., but are of {state['classes']}"
            )


def to_views(loss: Tensor, apart: Sequence[Tensor], views: Sequence[Tensor]) -> Tensor:
    """Zero, whose gradient to ``views`` is that of ``loss`` to their copies ``apart``, and which reaches nothing else.

    So one loss reaches the crops and another the weights, in the one backward pass that DDP wants.
    """
    grads = torch.autograd.grad(loss, [x for x in apart if x.requires_grad], retain_graph=True)
    learned = [view for view in views if view.requires_grad]
    parts = [((view - view.detach()) * grad).sum() for view, grad in zip(learned, grads, strict=True)]
    return torch.stack(parts).sum()


def labelled_accuracy(logits: Tensor, label: Tensor) -> Tensor:
    """Share of the labelled rows whose first guess is right; 0 where there is none."""
    shown = label != UNLABELLED
    right = (logits.argmax(1) == label) & shown
    return right.sum() / shown.sum().clamp(min=1)
