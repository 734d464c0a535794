"""Checkpoints: a folder each, complete once its ``meta.json`` is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(folder: Path, state: dict[str, Any], meta: dict[str, Any]) -> None:
    """Write ``state`` to ``folder``/state.pt, and ``meta`` last."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "state.pt")
    part = folder / "meta.json.part"
    part.write_text(json.dumps(meta, indent=1))
    part.replace(folder / "meta.json")


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(state, meta) of a complete checkpoint, on the CPU; tensors and plain values only, no pickled code runs."""
    meta = json.loads((folder / "meta.json").read_text())
    state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    return state, meta


def newest_checkpoint(run: Path) -> Path | None:
    """The complete checkpoint of ``run`` with the highest epoch."""
    complete = sorted(meta.parent for meta in (run / "checkpoints").glob("epoch=*/meta.json"))
    return complete[-1] if complete else None
