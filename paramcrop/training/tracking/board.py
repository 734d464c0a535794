"""TensorBoard's event files."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import scalar, text

from paramcrop.training.tracking.tracker import Facts


class Board:
    """TensorBoard: an event file in the run's ``tensorboard/``, which hides steps of earlier files that are run again.

    Raises:
        OSError: the file cannot be written; so do the methods.
    """

    def __init__(self, facts: Facts) -> None:
        folder = Path(facts.folder) / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{time.time_ns()}")
        if facts.step is not None:
            self._write(facts.step + 1, session_log=SessionLog(status=SessionLog.START))
        if facts.config:
            settings = yaml.safe_dump(dict(facts.config), sort_keys=False)
            self._write((facts.step or 0) + 1, summary=text("settings", f"```yaml\n{settings}```"))
        self._writer.flush()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._write(step, summary=scalar(name, value))
        self._writer.flush()

    def picture(self, step: int, name: str, file: str) -> None:
        picture = Summary.Image(encoded_image_string=Path(file).read_bytes())
        self._write(step, summary=Summary(value=[Summary.Value(tag=name, image=picture)]))
        self._writer.flush()

    def results(self, step: int, values: Mapping[str, float]) -> None:
        self.metrics(step, values)

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        self._writer.write_event(Event(wall_time=time.time(), step=step, **content))
