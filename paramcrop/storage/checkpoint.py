"""Checkpoints: write each as a folder, atomically, and find the newest intact one."""

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
WITHIN = "-step={:07d}"  # suffix of a checkpoint saved within the next epoch, on a preemption notice


def save_checkpoint(folder: Path, state: dict[str, Any], meta: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values) to state.pt, then meta.json with its size and sha256.

    Both are written and synced to disk in a temporary folder, which is then renamed to ``folder``.

    Raises:
        OSError: the checkpoint cannot be written; ``folder`` and its neighbours are unchanged.
    """
    part = Path(unfinished(str(folder)))
    try:
        part.mkdir(parents=True)
        with (part / "state.pt").open("wb") as file:
            sink: Any = _Hashing(file)  # has the methods of a file that torch.save calls
            torch.save(state, sink)
            _sync(file)
        facts = meta | {"bytes": sink.bytes, "sha256": sink.sha256.hexdigest()}
        with (part / "meta.json").open("wb") as file:
            file.write(json.dumps(facts, indent=1).encode())
            _sync(file)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one, or one of the same epoch from before a resume
        part.rename(folder)
    except RuntimeError as error:  # torch wraps the file's OSError
        raise _cause(error) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(state, meta) of a checkpoint, on the CPU. It holds tensors and plain values only; no pickled code runs."""
    meta = json.loads((folder / "meta.json").read_text())
    state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    return state, meta


def read_meta(folder: Path) -> dict[str, Any]:
    """Verify a checkpoint and return its meta.json: the epoch and step after which it was saved, bytes, sha256.

    Raises:
        ValueError: it is incomplete or damaged; the message says why.
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
        raise ValueError(
            f"state.pt must have the {expected[0]} bytes and the sha256 of meta.json, but it has {size} bytes and"
            f" {'the same' if sha256.hexdigest() == expected[1] else 'another'} sha256"
        )
    return meta


def steps_done(checkpoint: Path | None) -> tuple[int, int]:
    """(epochs, steps) done at a checkpoint that ``newest_checkpoint`` has verified; (0, 0) without one."""
    meta = json.loads((checkpoint / "meta.json").read_text()) if checkpoint else {"epoch": 0, "step": 0}
    return meta["epoch"], meta["step"]


def newest_checkpoint(run: Path, fetch: Callable[[str], None] = lambda name: None) -> tuple[Path | None, list[str]]:
    """The newest intact checkpoint of ``run``, and one line for each newer one that was passed over, with the reason.

    Args:
        fetch: called with each checkpoint's name relative to ``run`` before it is read.
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
    """A file for ``torch.save`` that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.bytes, self.sha256 = file, 0, hashlib.sha256()

    def write(self, data: Any) -> int:
        self._file.write(data)
        self.sha256.update(data)
        self.bytes += memoryview(data).nbytes
        return memoryview(data).nbytes

    def flush(self) -> None:
        self._file.flush()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _chunks(file: BinaryIO, size: int = 2**20) -> Iterator[bytes]:
    while chunk := file.read(size):
        yield chunk


def _cause(error: RuntimeError) -> Exception:
    """The OSError behind ``error``, or ``error`` itself."""
    linked: BaseException | None = error
    while linked is not None and not isinstance(linked, OSError):
        linked = linked.__cause__ or linked.__context__
    return linked or error
