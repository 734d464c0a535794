"""Who works on a folder: one process at a time, on a file system or in a bucket, and how it begins afresh."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from paramcrop.storage import bucket_lease, lease
from paramcrop.storage.bucket_lease import BucketLease
from paramcrop.storage.files import local_path, open_folder
from paramcrop.storage.lease import Lease
from paramcrop.storage.mirror import Mirror

LEASE = "lease"  # the folder in which a folder's holder is named; it never moves


def hold(place: Mirror | str, say: Callable[[str], None] = lambda text: None) -> Lease | BucketLease:
    """A lease on a folder or URI; once entered, its ``path`` is the argument of ``still_held``."""
    where = str(place)
    local = local_path(where)
    return BucketLease(where, say) if local is None else Lease(local, say)


def still_held(path: str) -> bool:
    """Whether the process whose lease has this ``path`` still holds its folder."""
    return bucket_lease.is_newest(path) if "://" in path else lease.is_newest(path)


def is_held(place: Mirror | str) -> bool:
    """Whether a live process holds the folder or URI."""
    local = local_path(str(place))
    return bucket_lease.is_held(str(place)) if local is None else lease.is_held(local)


def set_aside(place: Mirror) -> str | None:
    """Move what is in a folder to NAME~1, NAME~2, … -> the new path; None if there is nothing to move.

    The caller must hold the folder. Its lease stays where it is, so no other process takes its place meanwhile.
    """
    local = local_path(str(place))
    aside = _move_objects(place.uri) if local is None else _move_files(local)
    if aside:
        place.forget()
    return aside


def _move_files(folder: Path) -> str | None:
    found = [path for path in folder.iterdir() if path.name != LEASE]
    if not found:
        return None
    aside = next(filter(_made, (folder.with_name(f"{folder.name}~{n}") for n in count(1))))
    for path in found:
        path.rename(aside / path.name)
    return str(aside)


def _made(folder: Path) -> bool:
    """Make the folder; False if it exists."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _move_objects(uri: str) -> str | None:
    fs, root = open_folder(uri)
    found = [info for info in _entries(fs, root) if info.base_name != LEASE]
    if not found:
        return None
    number = next(n for n in count(1) if not any(_entries(fs, f"{root}~{n}")))
    for info in found:  # all copies first: an interruption leaves the original whole
        aside = f"{root}~{number}/{info.base_name}"
        pa.fs.copy_files(info.path, aside, source_filesystem=fs, destination_filesystem=fs, use_threads=True)
    for info in found:
        fs.delete_dir(info.path) if info.type == pa.fs.FileType.Directory else fs.delete_file(info.path)
    return f"{uri}~{number}"


def _entries(fs: pa.fs.FileSystem, path: str) -> Iterator[pa.fs.FileInfo]:
    yield from fs.get_file_info(pa.fs.FileSelector(path, allow_not_found=True))
