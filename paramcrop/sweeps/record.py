"""A sweep's record of each trial: one file, rewritten as the trial proceeds. The metrics are stored with its runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from paramcrop.errors import DataError
from paramcrop.storage.files import atomic_write
from paramcrop.storage.mirror import WAITS, Mirror
from paramcrop.sweeps.trials import Trial

UNFINISHED = ("waiting", "running")
READER = "reader"  # who this machine's copies of the runs belong to
TOGETHER = 8  # runs that are fetched at once


@dataclass
class TrialRecord:
    """The state of one trial.

    Attributes:
        id, label, values: those of the ``Trial``.
        wanted: hash of everything that the trial has to compute; a record with another hash does not count as done.
        state: waiting, running, interrupted, done, pruned (stopped early), diverged (non-finite loss), or failed.
        doing: the current activity, for display.
        runs: {"seed", "folder", "uri", "state", "error"} of each pretraining, in the order of the seeds; for a run in a
            bucket, ``folder`` is one machine's local copy.
        results: files of its evaluations.
        failures: one line for each evaluation that failed.
        again: videos that failed by time, memory or storage in its evaluations; the next command tries them again.
        objectives: of each objective the mean over seeds; None: unknown.
        epoch, proxy: the epoch of the last comparison by asha, and the value compared; 0 and None before the first.
        started: time of the last start (seconds since 1970).
        seconds: duration of all starts together.
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
    again: int = 0
    objectives: list[float | None] = field(default_factory=list)
    epoch: int = 0
    proxy: float | None = None
    started: float = 0.0
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Its hash, by which tables call it where its settings are many, and its settings; every output calls it so."""
        return f"{self.id[:6]} {self.label}"

    @property
    def objective(self) -> float | None:
        """The first objective."""
        return next(iter(self.objectives), None)


def record_file(folder: Path, trial: str) -> Path:
    return folder / "trials" / f"{trial}.json"


def write_record(folder: Path, record: TrialRecord) -> None:
    file = record_file(folder, record.id)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        part.write_text(json.dumps(asdict(record), indent=1))


def read_record(folder: Path, trial: str) -> TrialRecord | None:
    """The record of a trial, with the paths of this machine; it touches no network, see ``fetch_runs``."""
    try:
        values = json.loads(record_file(folder, trial).read_text())
    except (OSError, ValueError):
        return None
    return localised(TrialRecord(**{f.name: values[f.name] for f in fields(TrialRecord) if f.name in values}))


def localised(record: TrialRecord) -> TrialRecord:
    """Point the record to this machine's copies of the runs that are in a bucket."""
    for run in record.runs:
        if run.get("uri"):
            theirs, mine = run["folder"], str(Mirror.of(run["uri"], READER).folder)
            run["folder"] = mine
            record.results = [file.replace(f"{theirs}/", f"{mine}/") for file in record.results]
    return record


def fetch_runs(records: Iterable[TrialRecord], *names: str) -> None:
    """Bring this machine's copies of the records' runs up to date, a few at a time.

    What the store does not give stays as it was fetched last.

    Args:
        names: as for ``Mirror.fetch``; weights and features are never fetched.
    """
    found = {Mirror.of(run["uri"], READER) for record in records for run in record.runs if run.get("uri")}

    def fetch(mirror: Mirror) -> None:
        with suppress(OSError, DataError):
            mirror.fetch(*names, light=True, waits=())

    with ThreadPoolExecutor(TOGETHER) as pool:
        list(pool.map(fetch, found))


def fetch_records(place: Mirror) -> None:
    """Bring this process's copies of a sweep's records up to date; while the store does not answer, they stay."""
    with suppress(OSError, DataError):
        place.fetch("trials/", waits=())


def read_records(folder: Path) -> list[TrialRecord]:
    """All records of a sweep, ordered by the time of their last start."""
    found = (read_record(folder, file.stem) for file in (folder / "trials").glob("[0-9a-f]*.json"))
    return sorted((record for record in found if record is not None), key=lambda record: (record.started, record.id))


def is_done(record: TrialRecord | None, wanted: str) -> bool:
    """Whether the trial ended as intended, with the hash ``wanted`` and nothing to try again, and its files exist."""
    if record is None or record.wanted != wanted or record.again or record.state not in ("done", "pruned"):
        return False
    return all_exist(record.results) and all_exist(f"{run['folder']}/status.json" for run in record.runs)


def all_exist(files: Iterable[str]) -> bool:
    return all(Path(file).exists() for file in files)


SECONDS = {False: 1.0, True: 5.0}  # minimum time between two writes of the current activity, on disk and to a bucket


class TrialRecorder:
    """Starts a trial's record anew, except for the duration of earlier starts, and writes it at every change.

    Attributes:
        record: the record that is written.

    Args:
        place: the sweep's folder, or this process's copy of it.
    """

    def __init__(self, place: Mirror, trial: Trial, wanted: str) -> None:
        self._place, self._name = place, f"trials/{trial.id}.json"
        place.fetch(self._name)
        before = read_record(place.folder, trial.id)
        self._spent, self._begun, self._written = before.seconds if before else 0.0, time.monotonic(), 0.0
        self.record = TrialRecord(trial.id, trial.label, trial.values, wanted, state="running", started=time.time())
        self._write(WAITS)

    def doing(self, text: str) -> None:
        """Set the current activity, which is written at most once a second."""
        self.record.doing = text
        if time.monotonic() - self._written >= SECONDS[bool(self._place.uri)]:
            self._write()

    def run(self, seed: int, place: Mirror, state: str = "", error: str = "") -> None:
        """Record the state of one seed's pretraining."""
        others = [run for run in self.record.runs if run["seed"] != seed]
        run = {"seed": seed, "folder": str(place.folder), "uri": place.uri, "state": state, "error": error}
        self.record.runs = [*others, run]
        self._write()

    def failed(self, seed: int, state: str, error: BaseException) -> str:
        """Record that one seed's pretraining failed, and return ``state``."""
        text = str(error).strip().partition("\n")[0] or type(error).__name__
        found = [run for run in self.record.runs if run["seed"] == seed]
        if found:
            self.run(seed, Mirror(Path(found[0]["folder"]), found[0]["uri"]), state, text)
        else:  # it failed before it had a folder
            self.record.failures.append(f"seed {seed}: {text}")
        return state

    def compared(self, epoch: int, value: float) -> None:
        """Record the value by which asha compares the trial at ``epoch``."""
        self.record.epoch, self.record.proxy = epoch, value
        self._write()

    def end(self, state: str) -> None:
        self.record.state, self.record.doing = state, ""
        self._write(WAITS)

    def _write(self, waits: Iterable[float] = ()) -> None:
        """Args:
        waits: between attempts to reach the bucket. Without any, a failure is left to the next write.
        """
        self._written = time.monotonic()
        self.record.seconds = round(self._spent + self._written - self._begun, 1)
        write_record(self._place.folder, self.record)
        with nullcontext() if waits else suppress(OSError, DataError):
            self._place.send(self._name, waits=waits)
