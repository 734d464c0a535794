"""Folders of videos and their official lists, with files of a few bytes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from paramcrop.data.prepare.datasets import Dataset


def touch(root: Path, *paths: str) -> str:
    """Create files of 1, 2, 3, … bytes."""
    for i, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x" * (i + 1))
    return str(root)


def write(root: Path, **texts: str) -> str:
    root.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (root / name.replace("__", ".")).write_text(text, newline="")
    return str(root)


def split_sizes(dataset: Dataset) -> dict[str, int]:
    return dict(Counter(split for source in dataset.sources for split in source.splits))


def files(dataset: Dataset) -> dict[str, str | None]:
    """id -> path, or None if the file is missing."""
    return {source.id: source.path if source.bytes is not None else None for source in dataset.sources}
