"""What a run logs of its embeddings and gradients: kept at each step, computed only for a line of metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paramcrop import dist
from paramcrop.errors import ParamCropError
from paramcrop.models.contrastive import MoCo, SimCLR
from paramcrop.models.interfaces import Method
from paramcrop.models.mean_teacher import MeanTeacher
from paramcrop.training.embeddings import alignment, effective_rank, similarity_gap, spread, total_norm, uniformity
from paramcrop.training.optim import parts_of
from paramcrop.training.plateau import Plateau

ROWS = 512  # embeddings of a batch that are looked at, at most: the cost does not grow with the batch

Probe = Callable[[nn.Module], dict[str, float]]  # a backbone -> figures to log


class Telemetry:
    """Holds references to the embeddings of the last step.

    The embeddings are those that the loss compares: for SimCLR the projections of both views, for MoCo queries and
    keys, for Mean Teacher, whose outputs are logits, the features of student and teacher.

    Forward hooks keep them. In a CUDA graph a hook runs once, at the recording: the tensor that it keeps has the values
    of the newest replay.
    """

    def __init__(self, method: Method, optimizer: Optimizer) -> None:
        self.optimizer, self.kept = optimizer, dict[int, Tensor]()
        self.handles = [head.register_forward_hook(self._keeper(i)) for i, head in enumerate(heads(method))]
        self.features = isinstance(method, MeanTeacher)

    def _keeper(self, i: int) -> Any:
        def keep(head: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.kept[i] = (inputs[0] if self.features else output).detach()

        return keep

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()

    @torch.no_grad()
    def read(self) -> dict[str, Tensor]:
        """The figures of the last step, the same on every rank; an exchange: every rank must call it.

        - ``rank``, ``embedding_std``, ``alignment``, ``uniformity``, ``similarity_gap``: see ``embeddings``.
        - ``grad_norm``, ``grad_norm_cropper``: see ``gradient_norms``.
        """
        figures = gradient_norms(self.optimizer)
        views = self._views()
        if views is None:
            return figures
        both = torch.cat(views)
        return figures | {
            "rank": effective_rank(both),
            "embedding_std": spread(both),
            "alignment": alignment(*views),
            "uniformity": (uniformity(views[0]) + uniformity(views[1])) / 2,
            "similarity_gap": similarity_gap(*views),
        }

    def _views(self) -> tuple[Tensor, Tensor] | None:
        """The embeddings of both views, of all ranks; None: there are too few."""
        views = self.kept[0].chunk(2) if len(self.kept) == 1 else tuple(self.kept[i] for i in sorted(self.kept))
        if len(views) != 2:
            return None
        most = max(1, ROWS // 2 // dist.world_size())
        x, y = (dist.gather(view[:most].float()) for view in views)
        return (x, y) if len(x) > 1 else None


def heads(method: Method) -> list[nn.Module]:
    """The modules whose outputs, or for Mean Teacher inputs, are the embeddings: one for both views, or one each."""
    if isinstance(method, SimCLR):
        return [method.head]
    if isinstance(method, MoCo):
        return [method.head, method.key_head]
    return [method.head, method.teacher_head] if isinstance(method, MeanTeacher) else []


def gradient_norms(optimizer: Optimizer) -> dict[str, Tensor]:
    """Norms of the last step's gradients, where they were not clipped; a step that clips gives the norm before."""
    norms = {}
    for name, groups in parts_of(optimizer).items():
        if groups[0].get("clip_norm") is not None:
            continue
        if grads := [p.grad for group in groups for p in group["params"] if p.grad is not None]:
            norms[name] = total_norm(grads)
    return norms


@dataclass
class Watch:
    """Looks at each line of metrics.

    Attributes:
        probe: see ``pretrain``; None: there is none, or it has failed.
        every: steps between two probes; None: no probes. probed: the last step with one.
    """

    telemetry: Telemetry
    plateau: Plateau
    probe: Probe | None
    every: int | None
    probed: int

    def look(
        self, step: int, total: int, means: Mapping[str, float], backbone: nn.Module
    ) -> tuple[dict[str, float], list[str]]:
        """Further figures for the line, and warnings."""
        warnings = [text] if (text := self.plateau.look(step, means)) else []
        if self.probe is None or self.every is None or dist.rank() or not self._due(step, total, self.every):
            return {}, warnings
        self.probed = step
        try:
            return unnoticed(self.probe, backbone), warnings
        except (ParamCropError, OSError) as error:
            self.probe = None
            return {}, [*warnings, f"step {step}: no more probes, because one has failed: {error}"]

    def _due(self, step: int, total: int, every: int) -> bool:
        return step // every > self.probed // every or step in (1, total)


def unnoticed(probe: Probe, backbone: nn.Module) -> dict[str, float]:
    """Call a probe; torch's random states stay as they were."""
    device = next(backbone.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        return probe(backbone)
