"""Keeping a trial's record while it runs: from its process, for whoever looks."""

from __future__ import annotations

import time
from pathlib import Path

from paramcrop.storage.mirror import Mirror
from paramcrop.sweeps.record import TrialRecord, read_record, write_record
from paramcrop.sweeps.trials import Trial

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
