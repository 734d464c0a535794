"""The state of a folder that is being prepared: finished pieces of earlier attempts, and the manifest at the end.

A shard is finished when its part, ``parts/shard-00012.json``, exists; a folder is finished when its manifest exists.
Both are written last and atomically.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from paramcrop.data.killable import may_pass
from paramcrop.data.manifest import MANIFEST, Manifest, content_id, read_manifest, shard_from_json, write_manifest
from paramcrop.data.prepare.plan import PARTS, VERSION, Part, Piece, Plan, part_path, rejection, unread
from paramcrop.errors import DataError
from paramcrop.storage.files import open_folder
from paramcrop.storage.owner import hold

HIDDEN = r"\.[0-9a-f]{32}\."  # before the name of a file that is being written
OURS = re.compile(rf"shard-\d{{5,}}\.parquet|{HIDDEN}(shard-\d{{5,}}\.parquet|manifest\.json)")
OUR_PARTS = re.compile(rf"({HIDDEN})?shard-\d{{5,}}\.json|writable")
MISSING = "the file is missing"


def finished(out: str, same: Callable[[Manifest], bool]) -> Manifest | None:
    """The manifest of ``out``, or None if there is none.

    Args:
        same: whether a manifest belongs to the dataset that is being prepared.

    Raises:
        DataError: ``out`` is a file, or holds another dataset or shards of unknown origin.
    """
    fs, root = _open(out)
    hint = "use --fresh to replace it, or another --out"
    if _exists(fs, f"{root}/{MANIFEST}"):
        try:
            manifest = read_manifest(out)
        except DataError as error:
            raise DataError(f"{error}; {hint}") from error
        if not same(manifest):
            version = manifest.settings.get("version", VERSION)
            earlier = f", or one that version {version} of the preparation made; this is version {VERSION}"
            raise DataError(f"--out={out} holds another dataset{earlier if version != VERSION else ''}; {hint}")
        return manifest
    if not _exists(fs, f"{root}/{PARTS}") and any(OURS.fullmatch(name) for name in _names(fs, root)):
        raise DataError(f"--out={out} holds shards without a {MANIFEST}; {hint}")
    return None


def begin(out: str, fresh: bool) -> None:
    """Create the folder and check that it is writable; ``fresh`` removes everything from earlier attempts.

    Raises:
        DataError: the folder is not writable.
    """
    fs, root = open_folder(out)
    try:
        if fresh and _exists(fs, root):
            if _exists(fs, f"{root}/{MANIFEST}"):
                fs.delete_file(f"{root}/{MANIFEST}")  # first, so that a partly cleared folder does not look finished
            _clear(fs, root, keep=set())
        fs.create_dir(f"{root}/{PARTS}", recursive=True)
        with fs.open_output_stream(f"{root}/{PARTS}/writable"):
            pass
        fs.delete_file(f"{root}/{PARTS}/writable")
    except (OSError, pa.ArrowException) as error:
        raise _unwritable(out, error) from error


@contextmanager
def working(out: str, fresh: bool) -> Iterator[None]:
    """``begin``, and lock the folder against other commands.

    Raises:
        LeaseError: another process is working on the folder.
        DataError: the folder is not writable.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(hold(out if "://" in out else str(Path(out).expanduser().resolve())))
        except OSError as error:
            raise _unwritable(out, error) from error
        begin(out, fresh)
        yield


def _unwritable(out: str, error: Exception) -> DataError:
    return DataError(f"cannot write to --out={out}: {error}")


def read_parts(out: str, plan: Plan) -> dict[int, Part]:
    """The parts of ``plan`` that earlier attempts finished, by number."""
    fs, root = open_folder(out)
    found = {piece.number: _read_part(fs, root, piece) for piece in plan.pieces}
    return {number: part for number, part in found.items() if part is not None}


def _read_part(fs: pa.fs.FileSystem, root: str, piece: Piece) -> Part | None:
    try:
        with fs.open_input_stream(part_path(root, piece)) as source:
            fields = json.loads(source.read())
        if fields["piece"] != piece.id:
            return None
        if any(may_pass(row["reason"]) for row in fields["rejected"]):  # by time, memory or storage: try again
            return None
        shard = shard_from_json(fields["shard"]) if fields["shard"] else None
        if shard is not None and fs.get_file_info(f"{root}/{shard.file}").size != shard.bytes:
            return None
        sources = [(video, sha256) for video, sha256 in fields["sources"]]
        return Part(piece.id, shard, sources, fields["rejected"], fields["warnings"], fields["treatments"])
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged, so the piece is prepared again
        return None


def finish(out: str, plan: Plan, parts: dict[int, Part]) -> Manifest:
    """Write the manifest of a plan whose pieces all have their parts, then remove temporary files.

    Raises:
        DataError: no video could be used, or a shard is missing in ``out``.
    """
    fs, root = open_folder(out)
    ordered = [parts[piece.number] for piece in plan.pieces]
    rejected = [rejection(source, MISSING) for source in plan.missing]
    rejected += map(unread, plan.unreadable)
    rejected += [row for part in ordered for row in part.rejected]
    shards = tuple(part.shard for part in ordered if part.shard is not None)
    if not shards:
        example = f"{rejected[0]['path']}: {rejected[0]['reason']}"
        raise DataError(f"none of the videos could be used ({len(rejected)} rejected); {example}")
    for shard in shards:
        if fs.get_file_info(f"{root}/{shard.file}").size != shard.bytes:
            raise DataError(f"{shard.file} is missing or incomplete in --out={out}, which all nodes must share")
    content = content_id((source for part in ordered for source in part.sources), plan.settings)
    warnings = tuple(row for part in ordered for row in part.warnings)
    treatments = tuple(row for part in ordered for row in part.treatments)
    manifest = Manifest(content, plan.classes, shards, plan.settings, tuple(rejected), warnings, plan.id, treatments)
    write_manifest(manifest, out)
    clean(out, manifest)
    return manifest


def clean(out: str, manifest: Manifest) -> None:
    """Remove the temporary files of all attempts from a finished folder."""
    fs, root = open_folder(out)
    _clear(fs, root, {shard.file for shard in manifest.shards})


def strangers(out: str) -> list[str]:
    """Names in ``out`` that no preparation has made, which it leaves alone.

    Raises:
        DataError: ``out`` is a file.
    """
    fs, root = _open(out)
    ours = (MANIFEST, PARTS, "lease")
    return [name for name in _names(fs, root) if not name.startswith((".", *ours)) and not OURS.fullmatch(name)]


def leftovers(out: str) -> list[str]:
    """The temporary files that are still in a finished folder, one line each."""
    fs, root = open_folder(out)
    kept = {shard.file for shard in read_manifest(out).shards}
    names = [name for name in _names(fs, root) if name == PARTS or (OURS.fullmatch(name) and name not in kept)]
    return [
        f"{name}: left over from an earlier attempt; `paramcrop prepare` with the same options removes it"
        for name in names
    ]


def _open(out: str) -> tuple[pa.fs.FileSystem, str]:
    fs, root = open_folder(out)
    if fs.get_file_info(root).type == pa.fs.FileType.File:
        raise DataError(f"--out must be a folder, but {out} is a file; choose another")
    return fs, root


def _clear(fs: pa.fs.FileSystem, root: str, keep: set[str]) -> None:
    parts = f"{root}/{PARTS}"
    for name in filter(OUR_PARTS.fullmatch, _names(fs, parts)):
        fs.delete_file(f"{parts}/{name}")
    if _exists(fs, parts) and not _names(fs, parts):
        fs.delete_dir(parts)
    for name in _names(fs, root):
        if OURS.fullmatch(name) and name not in keep:
            fs.delete_file(f"{root}/{name}")


def _names(fs: pa.fs.FileSystem, root: str) -> list[str]:
    return sorted(info.base_name for info in fs.get_file_info(pa.fs.FileSelector(root, allow_not_found=True)))


def _exists(fs: pa.fs.FileSystem, path: str) -> bool:
    return bool(fs.get_file_info(path).type != pa.fs.FileType.NotFound)
