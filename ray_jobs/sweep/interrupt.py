"""The end of a sweep by Ctrl-C or SIGTERM: runs in progress are kept at the step reached, and no trial is "running"."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from paramcrop.errors import DataError
from paramcrop.storage.mirror import WAITS, Mirror
from paramcrop.storage.owner import is_held
from paramcrop.storage.runs import ask_to_stop, read_status, write_status
from paramcrop.sweeps.record import TrialRecord, fetch_records, read_record, read_records, write_record

GRACE = 45.0  # seconds for the runs to save their checkpoints
POLL = 0.5  # seconds between two looks at them
SETTLE = 1.0  # seconds for the trials to write their last records


def keep_runs(place: Mirror, say: Callable[[str], None], grace: float = GRACE) -> None:
    """Ask the runs of a sweep that train to save and end, wait for them, and record trials and runs as interrupted."""
    records, training = list[TrialRecord](), list[Mirror]()
    try:
        fetch_records(place)
        records = [record for record in read_records(place.folder) if record.state == "running"]
        own = (run for record in records for run in record.runs if run["state"] == "running")  # not of another command
        training = [mirror for run in own if _trains(mirror := Mirror(Path(run["folder"]), run["uri"]))]
        if training:
            say("interrupted: the runs in progress save a checkpoint at the step reached; Ctrl-C again ends them now")
            for run in training:
                with suppress(OSError, DataError):
                    ask_to_stop(str(run), now=True)
            end = time.monotonic() + grace
            while any(map(_trains, training)) and time.monotonic() < end:
                time.sleep(POLL)
            time.sleep(SETTLE)
    finally:
        for run in training:
            if not run.uri and read_status(run.folder)["state"] == "running":
                write_status(run.folder, "interrupted")
        with suppress(OSError, DataError):  # of a store that does not answer
            end_trials(place, records, "interrupted", waits=())


def _trains(run: Mirror) -> bool:
    with suppress(OSError, DataError):
        run.fetch("status.json", waits=())
        return is_held(run) and bool(read_status(run.folder)["state"] == "running")
    return False


def end_trials(
    place: Mirror, records: Sequence[TrialRecord], state: str, *why: str, waits: Iterable[float] = WAITS
) -> None:
    """Record the end of trials whose process does not do so itself."""
    if not records:
        return
    fetch_records(place)
    for one in records:
        record: Any = read_record(place.folder, one.id) or one
        record.state, record.doing, record.failures = state, "", [*record.failures, *why]
        write_record(place.folder, record)
    place.send(*(f"trials/{one.id}.json" for one in records), "study.journal", waits=waits)
