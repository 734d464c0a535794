"""What a backbone and a method must offer. Both are ``torch.nn.Module``s; ``crops/policies.py`` has a policy's."""

from __future__ import annotations

import typing
from collections.abc import Iterator

from torch import Tensor, nn


class Backbone(typing.Protocol):
    """A video network: what ``backbone.name`` names. One of your own is an ``nn.Module`` with these.

    Attributes:
        features: values per clip, D.
    """

    features: int

    def trunk(self, x: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W), float, normalised -> feature map (B, D, T', H', W')."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W) -> features (B, D), usually the trunk's mean over time and space: ``forward``."""
        ...


class Method(typing.Protocol):
    """A framework that learns from two views: what ``method`` names.

    Attributes:
        backbone: what evaluations load. head: what pretraining alone needs.
    """

    backbone: nn.Module
    head: nn.Module

    def __call__(
        self, view_1: Tensor, view_2: Tensor, label: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Two views of the same videos -> this rank's loss and what to log: ``forward``.

        Args:
            view_1, view_2: float32 (B, 3, T, H, W), normalised; the croppers' gradient flows through them.
            label: int64 (B,), class numbers; -1 where the label is not shown.
            progress: share of training done, in [0, 1].

        Returns:
            The loss, a scalar with a gradient, and named scalars.
        """
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """``nn.Module``'s."""
        ...

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """``nn.Module``'s."""
        ...
