"""Asking a run in progress to end, by a file named ``stop`` in its folder or bucket. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from paramcrop.storage.files import open_folder

STOP = "stop"
NOW = b"now"  # its content if the run is to end after the current step; otherwise it ends after its epoch


def ask_to_stop(run: str, now: bool = False) -> None:
    """Ask the run in this folder or at this URI to save a checkpoint and end: ``now``, or after its epoch.

    Raises:
        OSError: the file cannot be written.
    """
    fs, root = open_folder(run)
    with fs.open_output_stream(f"{root}/{STOP}") as file:
        file.write(NOW if now else b"")


def asked_to_stop_now(folder: Path) -> bool:
    """Whether the run in this folder was asked to end after the current step."""
    try:
        return (folder / STOP).read_bytes() == NOW
    except FileNotFoundError:
        return False
