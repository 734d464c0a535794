"""Checkpoints: a folder each, there whole or not at all; reading back the newest one that is intact."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from paramcrop.storage.files import unfinished

NAME = "epoch={:04d}"
WITHIN = "-step={:07d}"  # follows the name of one that was taken within the next epoch, before a machine went away


def save_checkpoint(folder: Path, state: dict[str, Any], meta: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values) to state.pt, then meta.json with its size and sha256.

    All of it is written beside ``folder`` and on the disk before it takes the name.

    Raises:
        OSError: it cannot be written; ``folder`` and its neighbours are as before.
    """
    part = Path(unfinished(str(folder)))
    try:
        part.mkdir(parents=True)
        with (part / "state.pt").open("wb") as file:
            sink: Any = _Hashing(file)  # all that torch.save needs of a file
            torch.save(state, sink)
            _settle(file)
        facts = meta | {"bytes": sink.bytes, "sha256": sink.sha256.hexdigest()}
        with (part / "meta.json").open("wb") as file:
            file.write(json.dumps(facts, indent=1).encode())
            _settle(file)
        shutil.rmtree(folder, ignore_errors=True)  # a torn one, or one of the same epoch from before a resume
        part.rename(folder)
    except RuntimeError as error:  # torch wraps what the file says
        raise _cause(error) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(state, meta) of a checkpoint, on the CPU; tensors and plain values only, no pickled code runs."""
    meta = json.loads((folder / "meta.json").read_text())
    state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    return state, meta


def read_meta(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself: epoch and step it was taken after, bytes, sha256.

    Raises:
        ValueError: it is not whole; the text says why.
    """
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        expected = meta["bytes"], meta["sha256"], meta["epoch"], meta["step"]
        with (folder / "state.pt").open("rb") as file:
            size, sha256 = os.fstat(file.fileno()).st_size, hashlib.sha256()
            for chunk in _chunks(file):
                sha256.update(chunk)
    except FileNotFoundError as error:
        raise ValueError(f"{Path(error.filename).name} is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"meta.json or state.pt cannot be read: {type(error).__name__}: {error}") from None
    if (size, sha256.hexdigest()) != expected[:2]:
        raise ValueError(f"state.pt must have {expected[0]} bytes and its sha256, but has {size} bytes or another")
    return meta


def steps_done(checkpoint: Path | None) -> tuple[int, int]:
    """(epochs, steps) done at a checkpoint that ``newest_checkpoint`` found whole; none: (0, 0)."""
    meta = json.loads((checkpoint / "meta.json").read_text()) if checkpoint else {"epoch": 0, "step": 0}
    return meta["epoch"], meta["step"]


def newest_checkpoint(run: Path, fetch: Callable[[str], None] = lambda name: None) -> tuple[Path | None, list[str]]:
    """The intact checkpoint of ``run`` with the highest epoch, and why later ones were passed over, a line each.

    Args:
        fetch: told each checkpoint's name below ``run`` before it is looked at.
    """
    passed_over = []
    for folder in sorted((run / "checkpoints").glob("epoch=*"), reverse=True):
        fetch(f"checkpoints/{folder.name}/")
        try:
            read_meta(folder)
        except ValueError as error:
            passed_over.append(f"{folder.name}: {error}")
        else:
            return folder, passed_over
    return None, passed_over


class _Hashing:
    """A file for ``torch.save`` that hashes what passes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.bytes, self.sha256 = file, 0, hashlib.sha256()

    def write(self, data: Any) -> int:
        self._file.write(data)
        self.sha256.update(data)
        self.bytes += memoryview(data).nbytes
        return memoryview(data).nbytes

    def flush(self) -> None:
        self._file.flush()


def _settle(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _chunks(file: BinaryIO, size: int = 2**20) -> Iterator[bytes]:
    while chunk := file.read(size):
        yield chunk


def _cause(error: RuntimeError) -> Exception:
    linked: BaseException | None = error
    while linked is not None and not isinstance(linked, OSError):
        linked = linked.__cause__ or linked.__context__
    return linked or error
