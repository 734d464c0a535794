"""One stint of work on a run, from a command's start to its end: what is written down of both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from paramcrop.config import Config
from paramcrop.runs import changes, commit, write_provenance, write_status

if TYPE_CHECKING:
    from paramcrop.data.shards import Manifest


def begin(folder: Path, config: Config, manifest: Manifest, say: Callable[[str], None]) -> None:
    """What ran, for the first start; for a later one, what differs from then, which ``say`` is told."""
    (folder / "stop").unlink(missing_ok=True)
    again = (folder / "provenance.json").exists()
    differences = changes(folder, config) if again else []
    if not again:
        write_provenance(folder, config, manifest.content_id, manifest.about)
    for line in differences:
        say(f"note: {line}")
    write_status(folder, "running", command=sys.argv, commit=commit(), changes=differences)


@contextmanager
def ending(folder: Path, steps: int) -> Iterator[None]:
    """Write down how a run ended, whatever the way; it is finished after ``steps``."""
    from paramcrop.checkpoint import newest_checkpoint, steps_done

    try:
        yield
    except KeyboardInterrupt:
        write_status(folder, "interrupted")
        raise
    except BaseException as error:
        with suppress(OSError):  # a full disk: the error says so already
            write_status(folder, "failed", error=str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise
    newest, _ = newest_checkpoint(folder)
    epoch, step = steps_done(newest)
    state = "finished" if step == steps else f"stopped@{epoch}"
    write_status(folder, state, checkpoint=newest.name if newest else None)
