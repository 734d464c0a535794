"""The files below a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.fs

from paramcrop.errors import DataError
from paramcrop.storage.files import open_folder

EXTENSIONS = (
    *(".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp", ".ts"),
    *(".gif", ".mts", ".m2ts", ".vob", ".asf", ".f4v", ".3g2", ".y4m", ".mxf"),
)

Files = Mapping[str, int]  # relative posix path -> bytes


def list_videos(folder: str) -> dict[str, int]:
    """The files of ``list_files`` that have the extension of a video."""
    return {path: size for path, size in list_files(folder).items() if is_video(path)}


def list_files(folder: str) -> dict[str, int]:
    """Relative path -> size of every file below ``folder``, sorted, without hidden files and folders.

    Raises:
        DataError: the folder is missing, cannot be listed, or has a link to a folder around it.
    """
    fs, root = open_folder(folder)
    if isinstance(fs, pa.fs.LocalFileSystem):
        check_links(root)
    try:
        infos = fs.get_file_info(pa.fs.FileSelector(root, recursive=True))
    except (OSError, pa.ArrowException) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be listed: {error}"
        raise DataError(f"--videos={folder} {reason}") from error
    try:
        files = {info.path[len(root) :].lstrip("/"): info.size for info in infos if info.type == pa.fs.FileType.File}
    except UnicodeDecodeError as error:
        raise DataError(f"file names in --videos must be UTF-8, but one is {error.object!r}; rename it") from error
    return {path: files[path] for path in sorted(files) if not is_hidden(path)}


def check_links(folder: str, above: tuple[str, ...] = ()) -> None:
    """Follow every link below ``folder``, which lies in the real folders ``above``.

    Raises:
        DataError: a link leads to a folder around it, so that every video would be found again and again.
    """
    real = os.path.realpath(folder)
    if real in above:
        raise DataError(f"--videos must not have a link to a folder around it, but {folder} is one; remove it")
    try:
        below = [entry.path for entry in os.scandir(folder) if entry.is_dir()]
    except OSError:  # listing the files says why
        return
    for each in below:
        check_links(each, (*above, real))


def is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path).parts)


def is_video(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in EXTENSIONS and not is_hidden(path)
