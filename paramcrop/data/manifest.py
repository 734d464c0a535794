"""The manifest lists the content of a folder of shards. It is written last, so a folder that has one is complete."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from paramcrop.data.prepare.files import is_video
from paramcrop.errors import DataError
from paramcrop.settings.digest import short_hash
from paramcrop.storage.files import atomic_write_on, local_path, open_folder

FORMAT = "paramcrop-shards/3"  # of which 3 is that videos are encoded with fastdecode
READABLE = "paramcrop-shards/2", FORMAT
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """One Parquet file.

    Attributes:
        row_groups: number of rows in each row group, in order.
        splits: splits of every row in the file.
        order: a hash of the ids of its videos, in order; empty: unknown, in folders of earlier versions.
    """

    file: str
    bytes: int
    sha256: str
    row_groups: tuple[int, ...]
    splits: tuple[str, ...] = ("train",)
    order: str = ""

    @property
    def videos(self) -> int:
        return sum(self.row_groups)


@dataclass(frozen=True)
class Manifest:
    """The content of a folder of shards.

    Attributes:
        content_id: a hash of the sorted (video id, source sha256) and of the settings of the preparation. Equal ids
            mean equal data, whatever the location of the folder and its division into files.
        rejected: videos left out, as {"id", "path", "splits" (separated by commas), "reason"}.
        warnings: incomplete or damaged videos that were kept, as {"id", "path", "text"}.
        plan: a hash of what was to be prepared; empty: unknown.
        treatments: what was done to sources besides scaling and what they are like, as {"id", "path"} and of these:
            "turned" (degrees clockwise, "mirrored"), "squeezed" (width:height of a pixel), "range" ("full"), "matrix",
            "stream" ("2 of 3"), "lost" (see warnings), "rate" ("varies"). Ordinary sources are left out.
    """

    content_id: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    rejected: tuple[dict[str, str], ...] = ()
    warnings: tuple[dict[str, str], ...] = ()
    plan: str = ""
    treatments: tuple[dict[str, str], ...] = ()

    @property
    def videos(self) -> int:
        return sum(shard.videos for shard in self.shards)

    @property
    def data_id(self) -> str:
        """A hash of the content and of its division into shards and row groups, which orders an epoch's videos."""
        layout = [(shard.order or shard.sha256, shard.row_groups) for shard in self.shards]
        return short_hash([self.content_id, layout], 16)

    @property
    def splits(self) -> dict[str, int]:
        """The number of videos in each split, sorted by name."""
        names = sorted({name for shard in self.shards for name in shard.splits})
        return {name: sum(shard.videos for shard in self.shards if name in shard.splits) for name in names}

    @property
    def about(self) -> dict[str, Any]:
        """The facts that results are reported with: dataset, number of videos and of classes, short side in pixels."""
        facts = {"dataset": self.settings.get("dataset", ""), "videos": self.videos, "classes": len(self.classes)}
        return facts | {"short_side": self.short_side}

    @property
    def short_side(self) -> int | None:
        """Short side of the videos, pixels; None: unknown."""
        s = self.settings
        side = s.get("short_side", min(s["height"], s["width"]) if {"height", "width"} <= s.keys() else None)
        return None if side is None else int(side)

    def rejected_of(self, split: str) -> list[dict[str, str]]:
        """The videos left out of one split."""
        return [row for row in self.rejected if split in row.get("splits", "").split(",")]

    def select(self, split: str | None) -> Manifest:
        """A manifest of the shards of one split (None: all), with the content id of the whole folder.

        Raises:
            DataError: there is no such split.
        """
        if split is None:
            return self
        if split not in self.splits:
            raise DataError(f"the split must be one of {', '.join(self.splits)}, but is {split!r}")
        return replace(self, shards=tuple(shard for shard in self.shards if split in shard.splits))


def enlarged_from(short_side: int | None, box: float, size: int) -> int | None:
    """The side in pixels of the square that clips are upsampled from; None: they are not upsampled, or it is unknown.

    Args:
        short_side: short side of the videos, pixels; None: unknown.
        box: side of the square that a clip is cut from, as a fraction of the short side. If it is random, pass its
            maximum: a clip from a smaller square is upsampled all the more.
        size: side of the clip, pixels.
    """
    if short_side is None or (side := max(1, round(box * short_side))) >= size:
        return None
    return side


def enlargement(name: str, short_side: int | None, box: float, size: int, setting: str) -> list[str]:
    """A one-line warning if clips are upsampled, else an empty list.

    Args:
        name: subject of the warning.
        short_side, box, size: see ``enlarged_from``.
        setting: the setting of the clips' size.
    """
    if (side := enlarged_from(short_side, box, size)) is None:
        return []
    needed = 2 * math.ceil(size / box / 2)
    return [
        f"warning: {name}: clips of {size} x {size} pixels are enlarged from {side} x {side}, because the videos have "
        f"a short side of {short_side}; prepare them with --short-side {needed} or more, or set {setting}={side}"
    ]


def content_id(sources: Iterable[tuple[str, str]], settings: dict[str, Any]) -> str:
    """A hash of the sorted (id, source sha256) pairs and the settings of the preparation; 16 hex digits."""
    return short_hash([sorted(sources), settings], 16)


def write_manifest(manifest: Manifest, folder: str) -> None:
    fs, root = open_folder(folder)
    totals = {"format": FORMAT, "videos": manifest.videos, "bytes": sum(shard.bytes for shard in manifest.shards)}
    with atomic_write_on(fs, f"{root}/{MANIFEST}") as part, fs.open_output_stream(part) as sink:
        sink.write(json.dumps(totals | asdict(manifest), indent=1).encode())


def read_manifest(folder: str) -> Manifest:
    """Raises:
    DataError: the folder has no manifest (it is missing or unfinished), or one that this version cannot read.
    """
    fs, root = open_folder(folder)
    try:
        with fs.open_input_stream(f"{root}/{MANIFEST}") as source:
            fields = json.loads(source.read())
    except FileNotFoundError:
        raise DataError(_without_manifest(folder)) from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {folder}/{MANIFEST}: {error}") from error
    if not isinstance(fields, dict) or fields.get("format") not in READABLE:
        found = fields.get("format") if isinstance(fields, dict) else type(fields).__name__
        raise DataError(
            f"the format of {folder}/{MANIFEST} must be {' or '.join(READABLE)}, but is {found!r}; prepare it again"
        )
    shards = tuple(shard_from_json(shard) for shard in fields["shards"])
    settings, rejected, warnings = fields["settings"], tuple(fields["rejected"]), tuple(fields["warnings"])
    treatments = tuple(fields.get("treatments", ()))  # folders of earlier versions have none
    classes, plan = tuple(fields["classes"]), fields["plan"]
    return Manifest(fields["content_id"], classes, shards, settings, rejected, warnings, plan, treatments)


def _without_manifest(folder: str) -> str:
    """Why a folder has no manifest; for a folder of videos, the command that makes shards of them."""
    folder, path = folder.rstrip("/"), local_path(folder)
    if path is not None and path.is_dir() and any(is_video(file.name) for file in path.rglob("*.*")):
        options = shlex.join(["--dataset", "folder", "--videos", folder, "--out", f"{folder}-shards"])
        return f"{folder} holds videos, not shards; make shards of them with `paramcrop prepare {options}`"
    return f"{folder} has no {MANIFEST}: the path is wrong, or `paramcrop prepare` has not finished"


def shard_from_json(fields: dict[str, Any]) -> Shard:
    return Shard(**fields | {"row_groups": tuple(fields["row_groups"]), "splits": tuple(fields["splits"])})
