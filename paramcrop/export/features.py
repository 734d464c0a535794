"""The features of a folder of videos: a Parquet file that is made in parts, read, and searched."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from paramcrop.data.killable import may_pass
from paramcrop.errors import ConfigError, DataError
from paramcrop.export.search import Search, open_search
from paramcrop.storage.files import atomic_write

ABOUT = b"paramcrop"  # key of the file's own metadata
COLUMNS = ("path", "clip", "start", "end", "feature", "picture")


class Hit(NamedTuple):
    """A clip that was found: its row, its video, its first and last second, and its cosine with the query."""

    row: int
    path: str
    start: float
    end: float
    cosine: float


@dataclass(frozen=True)
class Features:
    """The features of n clips, D values each, in the order of their videos and times.

    Attributes:
        file: where they were read from.
        path: of each clip's video, relative to ``about["videos"]``. clip: its number in the video.
        start, end: seconds of its first and last frame, float32 (n,).
        vectors: float32 (n, D). pictures: a JPEG of each.
        about: the encoder, the clips, the videos' sizes in bytes, and those that could not be read.
    """

    file: Path
    path: list[str]
    clip: np.ndarray
    start: np.ndarray
    end: np.ndarray
    vectors: np.ndarray
    pictures: list[bytes]
    about: dict[str, Any]

    @staticmethod
    def read(file: str | Path) -> Features:
        """Read the file that `paramcrop embed` wrote.

        Raises:
            DataError: it is missing, or another file.
        """
        place = Path(file).expanduser()
        table, about = read_table(place)
        vectors = table["feature"].combine_chunks().flatten().to_numpy().reshape(-1, about["features"])
        clip, start, end = (table[name].to_numpy() for name in ("clip", "start", "end"))
        path, pictures = (table[name].to_pylist() for name in ("path", "picture"))
        return Features(place, path, clip, start, end, vectors, pictures, about)

    def search(self, queries: Any, k: int = 10) -> list[list[Hit]]:
        """The ``k`` clips with the largest cosine, best first, for each query.

        The index beside the file is used if there is one (`paramcrop embed --index`).

        Args:
            queries: (m, D), such as an ``Encoder``'s output; (D,) is one query.
        """
        asked = np.atleast_2d(np.asarray(queries.detach().cpu() if hasattr(queries, "detach") else queries, np.float32))
        if asked.shape[1] != self.vectors.shape[1]:
            raise DataError(f"queries must have {self.vectors.shape[1]} features, but have {asked.shape[1]}")
        found: Search = open_search(self.vectors, self.file)
        cosines, rows = found(asked, min(k, len(self.path)))
        return [
            [self._hit(int(row), float(cosine)) for row, cosine in zip(*line, strict=True)]
            for line in zip(rows, cosines, strict=True)
        ]

    def _hit(self, row: int, cosine: float) -> Hit:
        return Hit(row, self.path[row], float(self.start[row]), float(self.end[row]), cosine)


class Done(NamedTuple):
    """What earlier attempts have embedded: rows of whole videos, their sizes in bytes, and those that failed."""

    tables: list[pa.Table]
    sizes: dict[str, int]
    failed: dict[str, str]


def schema(features: int) -> pa.Schema:
    types = (pa.string(), pa.int32(), pa.float32(), pa.float32(), pa.list_(pa.float32(), features), pa.binary())
    return pa.schema(list(zip(COLUMNS, types, strict=True)))


def read_table(file: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Raises:
    DataError: the file is missing, or not of `paramcrop embed`.
    """
    try:
        table = pq.read_table(file)
        about: dict[str, Any] = json.loads(table.schema.metadata[ABOUT])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        kinds = {FileNotFoundError: "it does not exist", OSError: "it cannot be read"}
        reason = next((text for kind, text in kinds.items() if isinstance(error, kind)), "it has other contents")
        raise DataError(f"features must be a file that `paramcrop embed` wrote, but {file} is not: {reason}") from None
    return table, about


def read_about(file: Path) -> dict[str, Any]:
    """The description in a file that ``read_table`` can read."""
    about: dict[str, Any] = json.loads(pq.read_schema(file).metadata[ABOUT])
    return about


def write_table(file: Path, table: pa.Table, about: Mapping[str, Any]) -> None:
    """Write atomically."""
    with atomic_write(file) as part:
        pq.write_table(table.replace_schema_metadata({ABOUT: json.dumps(about)}), part)


def parts_of(out: Path) -> Path:
    """The folder of the parts of an unfinished ``out``."""
    return out.with_name(f".{out.name}.parts")


def read_done(out: Path, key: str, sizes: Mapping[str, int]) -> Done:
    """What of the videos in ``sizes`` need not be embedded again: finished or in parts, with this key and this size.

    Raises:
        ConfigError: ``out`` is another file.
    """
    try:
        found = [read_table(out)] if out.exists() else []
    except DataError as error:
        raise ConfigError(f"--out must be a new file or one of this command, but: {error}") from None
    done = Done([], {}, {})
    for table, about in chain(found, map(read_table, sorted(parts_of(out).glob("*.parquet")))):
        if about["key"] != key:
            continue
        same = {path for path, size in about["sizes"].items() if sizes.get(path) == size} - done.sizes.keys()
        lost = {path for path in same if may_pass(about["failed"].get(path, ""))}
        done.tables.append(table.filter(pc.is_in(table["path"], pa.array(sorted(same - lost), pa.string()))))
        done.sizes.update({path: sizes[path] for path in same - lost})
        done.failed.update({path: why for path, why in about["failed"].items() if path in same - lost})
    return done


def write_part(out: Path, table: pa.Table, about: Mapping[str, Any]) -> None:
    """Keep a table of whole videos until ``out`` is finished."""
    parts_of(out).mkdir(parents=True, exist_ok=True)
    write_table(parts_of(out) / f"{uuid.uuid4().hex}.parquet", table, about)


def finish(out: Path, tables: Sequence[pa.Table], about: Mapping[str, Any]) -> None:
    """Write ``out`` from its parts, in the order of paths and clips, and remove these."""
    whole = pa.concat_tables([schema(about["features"]).empty_table(), *map(plain, tables)])
    write_table(out, whole.sort_by([("path", "ascending"), ("clip", "ascending")]), about)
    shutil.rmtree(parts_of(out), ignore_errors=True)


def plain(table: pa.Table) -> pa.Table:
    """The table without metadata, which differ between parts."""
    return table.replace_schema_metadata(None)


def make_table(rows: Iterable[Mapping[str, Any]], features: int) -> pa.Table:
    """Rows with ``COLUMNS`` -> a table."""
    return pa.Table.from_pylist([{name: row[name] for name in COLUMNS} for row in rows], schema(features))
