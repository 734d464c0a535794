"""A pace for Ray Data's loop, which would otherwise take a core for itself while it waits for who trains."""

from __future__ import annotations

import time

from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor

SHORTEST, LONGEST = 0.005, 0.1  # seconds of a pause; Ray Data's own wait is the longest, too
QUICK = 0.01  # a step that has waited for something takes longer


class Pace(ExecutionCallback):
    """A pause after a step of the loop that neither waited nor did anything; each is twice as long as the one before.

    The loop waits until a task has something to give. When as much is decoded ahead as may be, that is at once, nothing
    is taken, and it looks again: seen to take .85 of a core from training for as long as it lasts.
    """

    def __init__(self) -> None:
        self._pause, self._done, self._woke = 0.0, -1, 0.0

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        counts = [op.metrics for op in executor._topology or ()]
        done = sum(m.num_tasks_submitted + m.num_task_outputs_generated for m in counts)
        idle = done == self._done and time.monotonic() - self._woke < QUICK
        self._pause = min(LONGEST, max(SHORTEST, 2 * self._pause)) if idle else 0.0
        time.sleep(self._pause)
        self._done, self._woke = done, time.monotonic()
