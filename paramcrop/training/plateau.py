"""The plateau on which a run does not learn: two views of a video are no more alike than two videos. Imports no torch.

``docs/numbers/learning.md`` has the runs that the constants come from. There, runs on the plateau have a loss of at
least .96 of chance and a gap of .00 to .04, runs that have left it at most .93 and .07 or more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LINES = 10  # lines of metrics in a row
STEPS = 50  # that those lines span at least: with a line at every step, ten steps are no sign
SHARE = 0.95  # of the loss by chance
GAP = 0.05  # of ``similarity_gap``


@dataclass
class Plateau:
    """Reads the lines of metrics of a run, in order.

    Args:
        chance: the loss of a network that says nothing.
        loss: name of the metric that is compared with it; None: none is. MoCo's loss falls below chance without
            learning, because the keys of the queue are random at first and later told apart by their age.
        first: step before which nothing is judged: MoCo's queue is not full.
        advice: what to try.
    """

    chance: float
    loss: str | None = "loss"
    first: int = 0
    advice: str = ""
    lines: int = 0
    start: int = 0
    warned: bool = False

    def look(self, step: int, metrics: Mapping[str, float]) -> str:
        """The warning, at the first line that makes the plateau certain; at any other an empty text."""
        if step < self.first or not self.is_on(metrics):
            self.lines = 0
            return ""
        self.start = step if self.lines == 0 else self.start
        self.lines += 1
        if self.warned or self.lines < LINES or step - self.start < STEPS:
            return ""
        self.warned = True
        return self.text(step, metrics)

    def is_on(self, metrics: Mapping[str, float]) -> bool:
        """Whether one line of metrics is on the plateau; not, if it lacks the figures."""
        if metrics.get("similarity_gap", GAP) >= GAP:
            return False
        return self.loss is None or metrics.get(self.loss, 0.0) >= SHARE * self.chance

    def text(self, step: int, metrics: Mapping[str, float]) -> str:
        loss = f"the loss is at chance ({metrics[self.loss]:.3f} of {self.chance:.3f}) and " if self.loss else ""
        return (
            f"step {step}: the run has not learned for {step - self.start} steps: {loss}two views of a video are "
            f"hardly more alike than two videos (mean cosines differ by {abs(metrics['similarity_gap']):.3f}). Some "
            f"runs leave this plateau after hundreds of steps; if this one does not, try {self.advice}"
        )
