"""What a sweep leaves of each trial: one file, rewritten whole as the trial goes on; numbers lie with its runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from paramcrop.storage.files import whole
from paramcrop.storage.mirror import Mirror
from paramcrop.sweeps.trials import Trial

UNFINISHED = ("waiting", "running")


@dataclass
class TrialRecord:
    """How one trial stands.

    Attributes:
        id, label, values: the trial's.
        wanted: hash of all that was asked of it; a trial that is done for another is not done for this.
        state: waiting, running, interrupted, done, pruned (stopped early), diverged (the loss not finite), failed.
        doing: what it does now, for people.
        runs: {"seed", "folder", "uri", "state", "error"} of its pretrainings, in the order of the seeds; of one that
            lies in a bucket, ``folder`` is a copy that one machine has.
        results: files of its evaluations. failures: one line each, of evaluations that failed.
        objective: mean over seeds, or None.
        epoch, proxy: the last at which it was compared (asha), and by what; 0 and None before.
        started, seconds: when its last start was, by the clock, and how long all its starts took together.
    """

    id: str
    label: str
    values: dict[str, Any]
    wanted: str
    state: str = "waiting"
    doing: str = ""
    runs: list[dict[str, Any]] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    objective: float | None = None
    epoch: int = 0
    proxy: float | None = None
    started: float = 0.0
    seconds: float = 0.0


def record_file(folder: Path, trial: str) -> Path:
    return folder / "trials" / f"{trial}.json"


def write_record(folder: Path, record: TrialRecord) -> None:
    file = record_file(folder, record.id)
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file) as part:
        part.write_text(json.dumps(asdict(record), indent=1))


def read_record(folder: Path, trial: str) -> TrialRecord | None:
    try:
        values = json.loads(record_file(folder, trial).read_text())
    except (OSError, ValueError):
        return None
    return fetched(TrialRecord(**{f.name: values[f.name] for f in fields(TrialRecord) if f.name in values}))


def fetched(record: TrialRecord) -> TrialRecord:
    """With this machine's own copies of the runs that lie in a bucket, for who reads them."""
    for run in record.runs:
        if run.get("uri"):
            place, there = Mirror.of(run["uri"], "reader"), run["folder"]
            with suppress(OSError):
                place.fetch(waits=())
            run["folder"] = str(place.folder)
            record.results = [file.replace(f"{there}/", f"{place.folder}/") for file in record.results]
    return record


def read_records(folder: Path) -> list[TrialRecord]:
    """In the order of their first start."""
    found = (read_record(folder, file.stem) for file in (folder / "trials").glob("[0-9a-f]*.json"))
    return sorted((record for record in found if record is not None), key=lambda record: (record.started, record.id))


def is_done(record: TrialRecord | None, wanted: str) -> bool:
    """It ended as it was to end, for what is wanted now, and all that it left is still there."""
    if record is None or record.wanted != wanted or record.state not in ("done", "pruned"):
        return False
    return all_there(record.results) and all_there(f"{run['folder']}/status.json" for run in record.runs)


def all_there(files: Iterable[str]) -> bool:
    return all(Path(file).exists() for file in files)


SECONDS = 1.0  # between two writings of what is being done


class Book:
    """A trial's record, started anew (the time that earlier starts took is kept), written at every change.

    Attributes:
        record: what is written.
    """

    def __init__(self, folder: Path, trial: Trial, wanted: str) -> None:
        before = read_record(folder, trial.id)
        self.folder = folder
        self._spent, self._begun, self._written = before.seconds if before else 0.0, time.monotonic(), 0.0
        self.record = TrialRecord(trial.id, trial.label, trial.values, wanted, state="running", started=time.time())
        self._write()

    def doing(self, text: str) -> None:
        """For people; written now and then."""
        self.record.doing = text
        if time.monotonic() - self._written >= SECONDS:
            self._write()

    def run(self, seed: int, place: Mirror, state: str = "", error: str = "") -> None:
        """How the pretraining of a seed stands."""
        others = [run for run in self.record.runs if run["seed"] != seed]
        told = {"seed": seed, "folder": str(place.folder), "uri": place.uri, "state": state, "error": error}
        self.record.runs = [*others, told]
        self._write()

    def failed(self, seed: int, state: str, error: BaseException) -> str:
        """The pretraining of a seed ended badly -> ``state``."""
        text = str(error).strip().partition("\n")[0] or type(error).__name__
        found = [run for run in self.record.runs if run["seed"] == seed]
        if found:
            self.run(seed, Mirror(Path(found[0]["folder"]), found[0]["uri"]), state, text)
        else:  # it was not even given a folder
            self.record.failures.append(f"seed {seed}: {text}")
        return state

    def compared(self, epoch: int, value: float) -> None:
        self.record.epoch, self.record.proxy = epoch, value
        self._write()

    def end(self, state: str) -> None:
        self.record.state, self.record.doing = state, ""
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        self.record.seconds = round(self._spent + self._written - self._begun, 1)
        write_record(self.folder, self.record)
