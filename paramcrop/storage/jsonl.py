"""JSON-lines files: append, read while they are written, cut back. Imports no torch."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from paramcrop.storage.files import whole


class Lines:
    """A file of JSON lines that is held open for appending; each line is written whole."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def add(self, line: dict[str, Any]) -> None:
        """Raises:
        OSError: it cannot be written.
        """
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def append_line(path: Path, line: dict[str, Any]) -> None:
    """One line with the time (seconds since 1970) before it, for files that several processes add to."""
    with path.open("a") as file:
        file.write(json.dumps({"time": round(time.time(), 2)} | line) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a JSON-lines file, also while it is written; none if it is not there yet."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def cut_lines(path: Path, step: int) -> None:
    """Leave the lines up to ``step``, in a new file of the same name."""
    if path.exists():
        kept = [line for line in read_lines(path) if line["step"] <= step]
        with whole(path) as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in kept))
