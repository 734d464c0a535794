"""Run a command in the background, and find its processes and its progress, to kill it at the right moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from paramcrop.storage.checkpoint import newest_checkpoint
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.runs import read_metrics
from tests.labelled import SMALL
from tests.memory import TINY

ROOT = Path(__file__).resolve().parents[2]
TIMED = ("clips_per_s", "data_wait")
STEPS = 24  # steps of a run of ``write_space``


class Command:
    """`python ray_jobs/<script> arguments` with its own home; it starts at once."""

    def __init__(self, home: Path, script: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.home, self.output, self.started = home, home / f"{time.time_ns()}.txt", time.monotonic()
        home.mkdir(parents=True, exist_ok=True)
        environment = (env or without_a_cluster()) | {"PARAMCROP_HOME": str(home), "COLUMNS": "200"}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "ray_jobs" / script), *arguments],
            stdout=self.output.open("w"),
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=home,
            start_new_session=True,
        )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def wait(self, seconds: float = 180) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise AssertionError(f"has not ended within {seconds} s:\n{self.text[-3000:]}") from None

    def until(self, true: Callable[[], object], seconds: float = 120) -> None:
        """Wait until a condition is true while the command runs."""
        end = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.text[-3000:]}"
            assert time.monotonic() < end, f"not true within {seconds} s:\n{self.text[-3000:]}"
            time.sleep(0.02)

    def pids(self, title: str = "") -> list[int]:
        """The processes with this command's home in their environment, and ``title`` in their command line."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                mine = f"PARAMCROP_HOME={self.home}\0".encode() in (folder / "environ").read_bytes() + b"\0"
                if mine and title.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:  # it has just ended, or belongs to another user
                continue
        return found

    def kill(self, *pids: int) -> None:
        assert pids, "there is no process to kill"
        for pid in pids:
            with suppress(ProcessLookupError):  # it ended together with another one
                os.kill(pid, signal.SIGKILL)

    def kill_all(self) -> None:
        self.kill(*self.pids())
        self.process.wait(30)


def steps_done(folder: Path) -> int:
    """The last step that a run has logged."""
    return max((line["step"] for line in read_metrics(folder)), default=0)


def left(folder: Path) -> dict[str, Any]:
    """Everything that a run leaves, except what depends on the clock."""
    newest, _ = newest_checkpoint(folder)
    assert newest is not None
    crops = {path.name: dict(np.load(path)) for path in sorted((folder / "crops").iterdir())}
    return {
        "weights": (newest.name, (newest / "state.pt").read_bytes()),
        "metrics": [{k: v for k, v in line.items() if k not in TIMED} for line in read_metrics(folder)],
        "samples": read_lines(folder / "samples.jsonl"),
        "failures": read_lines(folder / "failures.jsonl"),
        "crops": {f"{name}/{key}": value.tobytes() for name, arrays in crops.items() for key, value in arrays.items()},
    }


def without_a_cluster() -> dict[str, str]:
    """This environment, changed so that the command starts its own Ray."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return kept | {"RAY_ADDRESS": "local", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


def write_space(file: Path, epochs: int = 0, **fields: Any) -> str:
    """A space whose runs have 24 tiny steps, or ``epochs`` of four, with validation on the synthetic set."""
    settings = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in TINY)}
    length = {"train.epochs": epochs, "train.global_batch": 64} if epochs else {"train.max_steps": STEPS}
    settings |= length | {"run.log_every": 1}
    numbers = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in SMALL)}
    space = {"question": "What comes of it?", "set": settings, "seeds": [0]}
    file.write_text(yaml.safe_dump(space | {"evaluate": {"tasks": ["validation"], "set": numbers}} | fields))
    return str(file)
