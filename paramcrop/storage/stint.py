"""One stint of work on a run, from a command's start to its end: what is written down of both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from paramcrop.settings.config import Config
from paramcrop.storage import bucket_lease
from paramcrop.storage.bucket_lease import BucketLease
from paramcrop.storage.lease import Lease, is_newest
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import changes, commit, write_provenance, write_status

if TYPE_CHECKING:
    from paramcrop.data.shards import Manifest

STATUS = ("status.json", "history.jsonl")  # written by the command


def hold(place: Mirror, say: Callable[[str], None] = lambda text: None) -> Lease | BucketLease:
    """A lease of a run, wherever it lies; entered, it knows its ``place``, for ``still_held``."""
    return BucketLease(place.uri, say) if place.uri else Lease(place.folder, say)


def still_held(lease: str) -> bool:
    """Whether the process with that lease's ``place`` still holds its run."""
    return bucket_lease.is_newest(lease) if "://" in lease else is_newest(lease)


def begin(place: Mirror, config: Config, manifest: Manifest, say: Callable[[str], None]) -> None:
    """What ran, for the first start; for a later one, what differs from then, which ``say`` is told."""
    place.fetch()
    folder = place.folder
    (folder / "stop").unlink(missing_ok=True)
    place.remove("stop")
    again = (folder / "provenance.json").exists()
    differences = changes(folder, config) if again else []
    if not again:
        folder.mkdir(parents=True, exist_ok=True)
        write_provenance(folder, config, manifest.content_id, manifest.about)
    for line in differences:
        say(f"note: {line}")
    write_status(folder, "running", command=sys.argv, commit=commit(), changes=differences)
    place.send("config.yaml", "provenance.json", *STATUS)


@contextmanager
def ending(place: Mirror, steps: int) -> Iterator[None]:
    """Write down how a run ended, whatever the way; it is finished after ``steps``."""
    from paramcrop.storage.checkpoint import newest_checkpoint, steps_done

    try:
        yield
    except KeyboardInterrupt:
        _write(place, "interrupted")
        raise
    except BaseException as error:
        with suppress(OSError):  # a full disk: the error says so already
            _write(place, "failed", error=str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise
    place.fetch()
    newest, _ = newest_checkpoint(place.folder, place.fetch)
    epoch, step = steps_done(newest)
    state = "finished" if step == steps else f"stopped@{epoch}"
    _write(place, state, checkpoint=newest.name if newest else None)


def _write(place: Mirror, state: str, **facts: Any) -> None:
    """The workers have written to the history meanwhile."""
    with suppress(OSError):
        place.fetch("history.jsonl", waits=())
    write_status(place.folder, state, **facts)
    place.send(*STATUS)
