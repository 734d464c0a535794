"""A pace for Ray Data's loop, which would otherwise take a core for itself while it waits for who trains."""

from __future__ import annotations

import time

from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor

STEP = 0.02  # seconds; a new decode task, of seconds, waits for one at most


class Pace(ExecutionCallback):
    """At most a step in ``STEP`` seconds.

    Ray Data's loop waits until a task has something to give. When as much is decoded ahead as may be, that is at once,
    nothing is taken, and it looks again: seen to take .85 of a core from training for as long as it lasts.
    """

    def __init__(self) -> None:
        self._next = 0.0

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = time.monotonic() + STEP
