"""The interfaces of backbones and methods, which are ``torch.nn.Module``s. That of policies: ``crops/policies.py``."""

from __future__ import annotations

import typing
from collections.abc import Iterator

from torch import Tensor, nn


class Backbone(typing.Protocol):
    """A video network (setting ``backbone.name``). Your own backbone is an ``nn.Module`` with these members.

    Attributes:
        features: number of features per clip, D.
    """

    features: int

    def trunk(self, x: Tensor) -> Tensor:
        """Normalised float clips (B, 3, T, H, W) -> feature map (B, D, T', H', W')."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W) -> features (B, D), usually the mean of the trunk over time and space.

        Define it as ``forward``.
        """
        ...


class Method(typing.Protocol):
    """A framework that learns from two views (setting ``method``).

    Attributes:
        backbone: the network that evaluations load.
        head: the layers that only pretraining uses.
    """

    backbone: nn.Module
    head: nn.Module

    def __call__(
        self, view_1: Tensor, view_2: Tensor, label: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Two views of the same videos -> loss of this rank and scalars to log. Define it as ``forward``.

        Args:
            view_1, view_2: float32 (B, 3, T, H, W), normalised; the croppers' gradient flows through them.
            label: int64 (B,), class numbers; -1: the label is hidden.
            progress: fraction of training done, in [0, 1].

        Returns:
            The loss, a scalar with a gradient, and named scalars to log.
        """
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Inherited from ``nn.Module``."""
        ...

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Inherited from ``nn.Module``."""
        ...
