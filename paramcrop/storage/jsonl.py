"""JSON-lines files: append to them, read them while they are written, truncate them. Imports no torch."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from paramcrop.storage.files import atomic_write

TAIL = 1 << 16  # bytes in which the last line is looked for


class Lines:
    """A JSON-lines file that stays open for appending; each line is flushed at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def add(self, line: dict[str, Any]) -> None:
        """Raises:
        OSError: the line cannot be written.
        """
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Append one line, with the time (seconds since 1970) first, to a file that several processes append to."""
    with path.open("a") as file:
        file.write(json.dumps({"time": round(time.time(), 2)} | line) + "\n")


def last_line(file: Path) -> dict[str, Any] | None:
    """The last complete line, of at most ``TAIL`` bytes; None if there is none."""
    try:
        with file.open("rb") as source:
            source.seek(max(0, source.seek(0, os.SEEK_END) - TAIL))
            lines = source.read().split(b"\n")
    except FileNotFoundError:
        return None
    return _parsed(lines[-2].decode(errors="replace")) if len(lines) > 1 else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a JSON-lines file, which may still be growing; empty if it does not exist yet.

    Damaged lines, as a full disk or a power cut leaves them, are left out.
    """
    if not path.exists():
        return []
    text = path.read_text(errors="replace")
    found = map(_parsed, text[: text.rfind("\n") + 1].split("\n"))
    return [line for line in found if line is not None]


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def cut_lines(path: Path, step: int) -> None:
    """Replace the file by one with only the lines up to ``step``."""
    if path.exists():
        kept = [line for line in read_lines(path) if line["step"] <= step]
        with atomic_write(path) as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in kept))
