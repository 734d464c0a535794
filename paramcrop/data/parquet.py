"""A Parquet file of encoded videos that is hashed while it is written."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

VIDEO = "video"  # the column that does not compress


class HashedParquet:
    """One Parquet file while it is written: ``write`` row groups, ``close``, then read its attributes.

    Attributes:
        bytes, sha256: of the file, once closed.
        payload: bytes of video so far.
        row_groups: rows in each row group so far.
    """

    def __init__(self, fs: pa.fs.FileSystem, path: str, schema: pa.Schema) -> None:
        self.bytes, self.sha256, self.payload, self.row_groups = 0, "", 0, list[int]()
        self._schema, self._sink = schema, _HashingSink(fs.open_output_stream(path))
        # Encoded video does not compress, and statistics or dictionaries over it are waste.
        small = [column for column in _leaves(schema) if column != VIDEO]
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._sink, mode="w"),
            schema,
            compression={VIDEO: "NONE"} | dict.fromkeys(small, "ZSTD"),
            use_dictionary=[column for column in small if column.startswith("splits")],
            write_statistics=small,
        )

    def write(self, rows: list[dict[str, Any]]) -> None:
        """One row group."""
        self._writer.write_table(pa.Table.from_pylist(rows, self._schema), row_group_size=len(rows))
        self.row_groups.append(len(rows))
        self.payload += sum(len(row[VIDEO]) for row in rows)

    def close(self) -> None:
        self._writer.close()
        self._sink.close()
        self.bytes, self.sha256 = self._sink.bytes, self._sink.sha256.hexdigest()


def _leaves(schema: pa.Schema) -> list[str]:
    """Parquet's names of the columns: those of a list are its elements'."""
    return [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in schema]


class _HashingSink:
    def __init__(self, sink: Any) -> None:
        self._sink, self.bytes, self.sha256 = sink, 0, hashlib.sha256()
        self.closed = False

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.bytes += len(data)
        self._sink.write(data)
        return len(data)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self._sink.flush()

    def close(self) -> None:
        if not self.closed:
            self._sink.close()
            self.closed = True
