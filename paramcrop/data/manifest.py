"""The manifest of a folder of shards: what it holds. It is written last, so its presence means a complete folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from paramcrop.errors import DataError
from paramcrop.settings.digest import short_hash
from paramcrop.storage.files import open_folder, whole_on

FORMAT = "paramcrop-shards/2"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """One Parquet file.

    ``row_groups`` are the rows in each of its row groups, in order; every row is in exactly the splits ``splits``.
    """

    file: str
    bytes: int
    sha256: str
    row_groups: tuple[int, ...]
    splits: tuple[str, ...] = ("train",)

    @property
    def videos(self) -> int:
        return sum(self.row_groups)


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds.

    ``content_id`` is a hash of the sorted (video id, source sha256) and of the settings they were prepared with: equal
    ids mean equal data, wherever the folder lies and however it is cut into files.

    Attributes:
        rejected: what was left out, as {"id", "path", "splits" (with commas between), "reason"}.
        warnings: what was kept but is not whole, as {"id", "path", "text"}.
        plan: a hash of what was to be prepared; empty where that is not known.
    """

    content_id: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    rejected: tuple[dict[str, str], ...] = ()
    warnings: tuple[dict[str, str], ...] = ()
    plan: str = ""

    @property
    def videos(self) -> int:
        return sum(shard.videos for shard in self.shards)

    @property
    def splits(self) -> dict[str, int]:
        """Every split and its number of videos, sorted by name."""
        names = sorted({name for shard in self.shards for name in shard.splits})
        return {name: sum(shard.videos for shard in self.shards if name in shard.splits) for name in names}

    @property
    def about(self) -> dict[str, Any]:
        """What a reader of results must know of these videos: which dataset, how many, of how many classes."""
        return {"dataset": self.settings.get("dataset", ""), "videos": self.videos, "classes": len(self.classes)}

    def rejected_of(self, split: str) -> list[dict[str, str]]:
        """What was left out of one split."""
        return [row for row in self.rejected if split in row.get("splits", "").split(",")]

    def select(self, split: str | None) -> Manifest:
        """The shards of one split (None: all); the content id stays the folder's.

        Raises:
            DataError: there is no such split.
        """
        if split is None:
            return self
        if split not in self.splits:
            raise DataError(f"a split must be one of {', '.join(self.splits)}, but is {split!r}")
        return replace(self, shards=tuple(shard for shard in self.shards if split in shard.splits))


def content_id(sources: Iterable[tuple[str, str]], settings: dict[str, Any]) -> str:
    """16 hex digits over the sorted (id, source sha256) pairs and the prepare settings."""
    return short_hash([sorted(sources), settings], 16)


def write_manifest(manifest: Manifest, folder: str) -> None:
    fs, root = open_folder(folder)
    totals = {"format": FORMAT, "videos": manifest.videos, "bytes": sum(shard.bytes for shard in manifest.shards)}
    with whole_on(fs, f"{root}/{MANIFEST}") as part, fs.open_output_stream(part) as sink:
        sink.write(json.dumps(totals | asdict(manifest), indent=1).encode())


def read_manifest(folder: str) -> Manifest:
    """Raises:
    DataError: there is no manifest (the folder is missing or unfinished), or it is not one of ours.
    """
    fs, root = open_folder(folder)
    try:
        with fs.open_input_stream(f"{root}/{MANIFEST}") as source:
            fields = json.loads(source.read())
    except FileNotFoundError:
        raise DataError(
            f"{folder}: a data folder must hold a {MANIFEST}, but it does not (missing, or not finished)"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}/{MANIFEST} must be readable JSON: {error}") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        found = fields.get("format") if isinstance(fields, dict) else type(fields).__name__
        raise DataError(f"{folder}/{MANIFEST} must be of format {FORMAT!r}, but says {found!r}")
    shards = tuple(shard_from_json(shard) for shard in fields["shards"])
    settings, rejected, warnings = fields["settings"], tuple(fields["rejected"]), tuple(fields["warnings"])
    return Manifest(
        fields["content_id"], tuple(fields["classes"]), shards, settings, rejected, warnings, fields["plan"]
    )


def shard_from_json(fields: dict[str, Any]) -> Shard:
    return Shard(**fields | {"row_groups": tuple(fields["row_groups"]), "splits": tuple(fields["splits"])})
