"""The page of a sweep while it runs: written anew whenever a trial has ended, by a thread of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from paramcrop.storage.mirror import Mirror
from paramcrop.sweeps.record import UNFINISHED, read_records

PAUSE = 20.0  # seconds between two looks at the records


@contextmanager
def live_page(place: Mirror) -> Iterator[None]:
    """Keep ``index.html`` in the sweep's folder, and in its bucket, up to date within the block.

    The records are read as another thread has fetched them. A sweep does not end for its page: what fails is tried
    again after the next trial.
    """
    ended = Event()
    thread = Thread(target=_follow, args=(place, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _follow(place: Mirror, ended: Event) -> None:
    shown = set[str]()
    while not ended.wait(PAUSE):
        done = {record.id for record in read_records(place.folder) if record.state not in UNFINISHED}
        if done - shown:
            _write(place)
        shown = done


def _write(place: Mirror) -> None:
    from paramcrop.report.page import write_report

    try:
        files = write_report(place.folder)
        place.send(*(str(Path(file).relative_to(place.folder)) for file in files), waits=())
    except Exception:  # of any library that draws, and of the store
        return
