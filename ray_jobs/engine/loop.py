"""Ray Data's loop (2.60), mended where settings do not reach: when it looks, and what it keeps."""

from __future__ import annotations

import time

from ray.data._internal.execution import streaming_executor_state
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.metadata_fetcher import InlineMetadataFetcher
from ray.data._internal.execution.operators.map_operator import MapOperator
from ray.data._internal.execution.streaming_executor import StreamingExecutor

WAIT = 0.02  # seconds; Ray Data's is 0.1
SHORTEST, LONGEST = 0.005, 0.1  # seconds of a pause
QUICK = 0.01  # a step that has waited for something takes longer
KEPT = 1000  # blocks of each operator


class Pace(ExecutionCallback):
    """Shorter waits, and a pause after a step of the loop that neither waited nor did anything, longer each time.

    A step waits until *all* running tasks have something to give, or its time is over; what one gives is then looked up
    in a thread, and taken a step later. So the next task began .2 s after one had ended: 8 % of the time of one that
    decodes 64 videos.

    When as much is decoded ahead as may be, all have something to give at once, nothing is taken, and it looks again:
    seen to take .85 of a core from training for as long as it lasts.
    """

    def __init__(self) -> None:
        self._pause, self._done, self._woke = 0.0, -1, 0.0

    def before_execution_starts(self, executor: StreamingExecutor) -> None:
        """Neither is a setting that travels with a dataset."""
        streaming_executor_state.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S = WAIT
        executor._metadata_fetcher = InlineMetadataFetcher()

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        counts = [op.metrics for op in executor._topology or ()]
        done = sum(m.num_tasks_submitted + m.num_task_outputs_generated for m in counts)
        idle = done == self._done and time.monotonic() - self._woke < QUICK
        self._pause = min(LONGEST, max(SHORTEST, 2 * self._pause)) if idle else 0.0
        time.sleep(self._pause)
        self._done, self._woke = done, time.monotonic()


class Forget(ExecutionCallback):
    """Keep what the last blocks took, not all.

    Ray Data keeps it of every block, for the ``stats()`` of a dataset that has come to its end: 1 kB each, in the
    process of the loop, some 6 GB for 200 epochs of Kinetics, which are one execution here.
    """

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        for operator in executor._topology or ():
            if isinstance(operator, MapOperator):
                del operator._output_blocks_stats[:-KEPT]
