"""Datasets and runs that nothing was computed for: what can be known of an evaluation needs no more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from paramcrop.data.manifest import read_manifest
from paramcrop.data.shards import Video, write_shards
from paramcrop.evaluation.tasks import Request
from paramcrop.storage.checkpoint import save_checkpoint
from paramcrop.storage.runs import write_provenance
from tests.labelled import small
from tests.memory import tiny_config

OFFICIAL = {  # as HMDB51's: a test video of one split trains in another
    "a": ("test1", "train2"),
    "b": ("train1", "test2"),
    "c": ("train1", "train2"),
}


def rows(splits: Sequence[tuple[str, ...]], per: int, **fields: Any) -> Iterator[Video]:
    """``per`` videos of class 0 and 1 in turn for each of ``splits``; nothing in them can be decoded."""
    for part, names in enumerate(splits):
        for i in range(per):
            video = Video(f"{part}-{i}", b"x", 25.0, 10, 8, 8, i % 2, names, f"sha-{part}-{i}")
            yield replace(video, **{key: make(part, i) for key, make in fields.items()})


def dataset(
    folder: Path, splits: Sequence[tuple[str, ...]] = tuple(OFFICIAL.values()), per: int = 30, **fields: Any
) -> str:
    write_shards(rows(splits, per, **fields), str(folder), ("x", "y"), {"dataset": "made-up", "short_side": 64})
    return str(folder)


def make_run(folder: Path, shards: str, *overrides: str, data: str = "") -> Path:
    """A folder that looks like a run on ``shards``; nothing was computed."""
    config = tiny_config(f"data.shards={shards}", *overrides)
    folder.mkdir(parents=True)
    write_provenance(folder, config, data or read_manifest(shards).content_id)
    save_checkpoint(folder / "checkpoints" / "epoch=0001", {}, {"epoch": 1, "step": 1})
    return folder


def request(shards: str, *protocols: str, **fields: Any) -> Request:
    return Request(tuple(("set", small(name)) for name in protocols), {"set": shards}, **fields)
