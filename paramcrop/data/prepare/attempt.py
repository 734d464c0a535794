"""A folder that is being prepared: what earlier attempts finished, and the manifest when all is there.

A piece's shard counts from the moment its part, ``parts/shard-00012.json``, is there; a folder from the moment its
manifest is. Both are written last, and appear whole or not at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from paramcrop.data.manifest import MANIFEST, Manifest, content_id, read_manifest, shard_from_json, write_manifest
from paramcrop.data.prepare.plan import PARTS, Part, Piece, Plan, part_path, rejection
from paramcrop.errors import DataError
from paramcrop.storage.files import open_folder
from paramcrop.storage.lease import Lease

HIDDEN = r"\.[0-9a-f]{32}\."  # before the name of a file that is being written
OURS = re.compile(rf"shard-\d{{5,}}\.parquet|{HIDDEN}(shard-\d{{5,}}\.parquet|manifest\.json)")
OUR_PARTS = re.compile(rf"({HIDDEN})?shard-\d{{5,}}\.json|writable")
MISSING = "the file is missing"


def finished(out: str, same: Callable[[Manifest], bool]) -> Manifest | None:
    """The manifest of ``out``; None if there is none. ``same`` says whether it is that of the set to be prepared.

    Raises:
        DataError: ``out`` holds another set, or shards that are not an attempt's.
    """
    fs, root = open_folder(out)
    mend = "--fresh does it anew, another --out leaves it"
    if _there(fs, f"{root}/{MANIFEST}"):
        try:
            manifest = read_manifest(out)
        except DataError as error:
            raise DataError(f"{error}; {mend}") from error
        if not same(manifest):
            raise DataError(f"--out must be empty or hold this set, but {out} holds another; {mend}")
        return manifest
    if not _there(fs, f"{root}/{PARTS}") and any(OURS.fullmatch(name) for name in _names(fs, root)):
        raise DataError(f"--out must be empty or hold this set, but {out} holds shards without a {MANIFEST}; {mend}")
    return None


def begin(out: str, fresh: bool) -> None:
    """Make the folder ready to be written to; ``fresh``: without anything an earlier attempt left.

    Raises:
        DataError: it cannot be written to.
    """
    fs, root = open_folder(out)
    try:
        if fresh and _there(fs, root):
            if _there(fs, f"{root}/{MANIFEST}"):
                fs.delete_file(f"{root}/{MANIFEST}")  # first: a folder half cleared must not look finished
            _clear(fs, root, keep=set())
        fs.create_dir(f"{root}/{PARTS}", recursive=True)
        with fs.open_output_stream(f"{root}/{PARTS}/writable"):
            pass
        fs.delete_file(f"{root}/{PARTS}/writable")
    except (OSError, pa.ArrowException) as error:
        raise _unwritable(out, error) from error


@contextmanager
def working(out: str, fresh: bool) -> Iterator[None]:
    """``begin``, with the folder held against other commands; a store that is not a local folder cannot be.

    Raises:
        LeaseError: another process works on it.
        DataError: it cannot be written to.
    """
    fs, root = open_folder(out)
    with ExitStack() as stack:
        if isinstance(fs, pa.fs.LocalFileSystem):
            try:
                stack.enter_context(Lease(Path(root)))
            except OSError as error:
                raise _unwritable(out, error) from error
        begin(out, fresh)
        yield


def _unwritable(out: str, error: Exception) -> DataError:
    return DataError(f"--out must be a folder that can be written to, but {out} is not: {error}")


def read_parts(out: str, plan: Plan) -> dict[int, Part]:
    """The pieces of ``plan`` that earlier attempts finished, by number."""
    fs, root = open_folder(out)
    found = {piece.number: _read_part(fs, root, piece) for piece in plan.pieces}
    return {number: part for number, part in found.items() if part is not None}


def _read_part(fs: pa.fs.FileSystem, root: str, piece: Piece) -> Part | None:
    try:
        with fs.open_input_stream(part_path(root, piece)) as source:
            fields = json.loads(source.read())
        if fields["piece"] != piece.id:
            return None
        shard = shard_from_json(fields["shard"]) if fields["shard"] else None
        if shard is not None and fs.get_file_info(f"{root}/{shard.file}").size != shard.bytes:
            return None
        sources = [(video, sha256) for video, sha256 in fields["sources"]]
        return Part(piece.id, shard, sources, fields["rejected"], fields["warnings"])
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not one of ours: the piece is done again
        return None


def finish(out: str, plan: Plan, parts: dict[int, Part]) -> Manifest:
    """Write the manifest of a plan whose every piece has its part, then remove what is no longer needed.

    Raises:
        DataError: no video could be used, or a shard is not where this process looks for it.
    """
    fs, root = open_folder(out)
    whole = [parts[piece.number] for piece in plan.pieces]
    rejected = [rejection(source, MISSING) for source in plan.missing]
    rejected += [row for part in whole for row in part.rejected]
    shards = tuple(part.shard for part in whole if part.shard is not None)
    if not shards:
        first = rejected[0]
        raise DataError(
            f"a video at least must be usable, but none of {len(rejected)} is: {first['path']}: {first['reason']}"
        )
    for shard in shards:
        if fs.get_file_info(f"{root}/{shard.file}").size != shard.bytes:
            raise DataError(f"--out must be a folder that all nodes share, but {shard.file} is not in {out} as written")
    content = content_id((source for part in whole for source in part.sources), plan.settings)
    warnings = tuple(row for part in whole for row in part.warnings)
    manifest = Manifest(content, plan.classes, shards, plan.settings, tuple(rejected), warnings, plan.id)
    write_manifest(manifest, out)
    clean(out, manifest)
    return manifest


def clean(out: str, manifest: Manifest) -> None:
    """Remove what attempts left in a finished folder."""
    fs, root = open_folder(out)
    _clear(fs, root, {shard.file for shard in manifest.shards})


def leftovers(out: str) -> list[str]:
    """What lies in a finished folder and is not of it, one line each."""
    fs, root = open_folder(out)
    kept = {shard.file for shard in read_manifest(out).shards}
    names = [name for name in _names(fs, root) if name == PARTS or (OURS.fullmatch(name) and name not in kept)]
    return [f"{name}: must not be in a finished folder; the same command removes it" for name in names]


def _clear(fs: pa.fs.FileSystem, root: str, keep: set[str]) -> None:
    parts = f"{root}/{PARTS}"
    for name in filter(OUR_PARTS.fullmatch, _names(fs, parts)):
        fs.delete_file(f"{parts}/{name}")
    if _there(fs, parts) and not _names(fs, parts):
        fs.delete_dir(parts)
    for name in _names(fs, root):
        if OURS.fullmatch(name) and name not in keep:
            fs.delete_file(f"{root}/{name}")


def _names(fs: pa.fs.FileSystem, root: str) -> list[str]:
    return sorted(info.base_name for info in fs.get_file_info(pa.fs.FileSelector(root, allow_not_found=True)))


def _there(fs: pa.fs.FileSystem, path: str) -> bool:
    return bool(fs.get_file_info(path).type != pa.fs.FileType.NotFound)
