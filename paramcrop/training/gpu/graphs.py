"""The forward and backward pass of a step as a CUDA graph: one launch instead of thousands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from paramcrop.data.batch import MOVED, Batch

WARM = 3  # steps before the recording, in which cuDNN chooses algorithms and Triton compiles kernels
ForwardBackward: TypeAlias = Callable[[Batch, float], tuple[Tensor, dict[str, Tensor]]]


class Recorded:
    """Records ``function``, (batch, progress) -> loss and scalars with gradients in the parameters, and replays it.

    ``function`` must launch the same kernels at every step: it may neither read a value on the CPU, nor draw random
    numbers there, nor depend on ``progress``. All batches must have the same sizes. Each call overwrites the results
    and the gradients of the call before; gradients must not be set to None between two calls.
    """

    def __init__(self, function: ForwardBackward) -> None:
        self.function, self.calls = function, 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream()

    def __call__(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += 1
        if self.calls <= WARM:
            return self._warm(batch, progress)
        if self.graph is None:
            self._record(batch, progress)
        for name in MOVED:
            getattr(self.batch, name).copy_(getattr(batch, name), non_blocking=True)
        assert self.graph is not None
        self.graph.replay()
        return self.results

    def _warm(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            results = self.function(batch, progress)
        torch.cuda.current_stream().wait_stream(self.stream)
        return results

    def _record(self, batch: Batch, progress: float) -> None:
        """Record without computing anything; allocations of other threads do not disturb the recording."""
        self.batch = batch._replace(**{name: getattr(batch, name).clone() for name in MOVED})
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            self.results = self.function(self.batch, progress)
