"""A trace of a few training steps by torch.profiler, for ui.perfetto.dev: ``train.profile``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from paramcrop import dist
from paramcrop.data.batch import Batch
from paramcrop.storage.files import atomic_write
from paramcrop.training.step import Stepper

WARM = 6  # steps before the trace, in which kernels are chosen and compiled, and a GPU's step is recorded as a graph
FOLDER = "profile"


class Profiled:
    """A ``Stepper`` that records some of its steps, and the time between, and writes ``FOLDER``/steps=A-B.json.gz.

    A trace that cannot be written is left out.

    Args:
        stepper: takes the steps. folder: the run's. steps: how many are recorded.
        total: steps of the run, so that a short run is recorded up to its last step.
        gpu: record the GPU as well.
    """

    def __init__(self, stepper: Stepper, folder: Path, steps: int, total: int, gpu: bool) -> None:
        self.stepper, self.folder, self.steps, self.total = stepper, folder, steps, total
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
        self.trace: profile | None = profile(activities=activities)
        self.first: int | None = None  # step of the first ``take``

    def take(self, batch: Batch, progress: float, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Stepper.take``."""
        if self.trace is None:
            return self.stepper.take(batch, progress, step)
        self.first = step if self.first is None else self.first
        begin = self.first + max(0, min(WARM, self.total + 1 - self.first - self.steps))
        if step == begin:
            self.trace.start()
        with record_function(f"step {step}"):
            taken = self.stepper.take(batch, progress, step)
        if step in (begin + self.steps - 1, self.total):
            self._write(begin, step)
        return taken

    def check(self) -> None:
        """See ``Stepper.check``."""
        self.stepper.check()

    def _write(self, first: int, last: int) -> None:
        assert self.trace is not None
        self.trace.stop()
        trace, self.trace = self.trace, None
        try:
            (self.folder / FOLDER).mkdir(parents=True, exist_ok=True)
            with atomic_write(self.folder / FOLDER / f"steps={first}-{last}.json.gz") as part:
                trace.export_chrome_trace(str(part))
        except (OSError, RuntimeError):  # the run is worth more than its trace
            return


def profiled(stepper: Stepper, folder: Path | None, steps: int | None, total: int, gpu: bool) -> Stepper | Profiled:
    """The stepper, which on rank 0 of a run with a folder records ``steps`` steps; None: it records none."""
    if steps is None or folder is None or dist.rank():
        return stepper
    return Profiled(stepper, folder, steps, total, gpu)
