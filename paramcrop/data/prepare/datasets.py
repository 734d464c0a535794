"""The videos of a dataset: the entries of its lists, matched with files."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.fs

from paramcrop.data.prepare.annotations import (
    SPLITS,
    Entry,
    merge,
    parse_classes,
    parse_hmdb_list,
    parse_kinetics,
    parse_table,
    parse_ucf_list,
)
from paramcrop.errors import DataError
from paramcrop.storage.files import open_folder

EXTENSIONS = (".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp", ".ts")
UT_CLASSES = ("hand shake", "hug", "kick", "point", "punch", "push")
UT_SEQUENCES = range(1, 11)
UT_NAME = re.compile(r"\d+_(\d+)_(\d)")

Files = Mapping[str, int]  # relative posix path -> bytes


@dataclass(frozen=True)
class Source:
    """One video to prepare.

    Attributes:
        path: path relative to the folder of the videos (posix); if the file is missing, the path in the list.
        label: class name; None: unlabelled.
        bytes: size of the file; None: the file is missing.
        group: name of its group of near-duplicates; empty: derived from the id.
    """

    id: str
    path: str
    label: str | None
    splits: tuple[str, ...]
    bytes: int | None
    group: str = ""


@dataclass(frozen=True)
class Dataset:
    """All videos of a dataset.

    Attributes:
        classes: class names; a label's number is its index.
        sources: the videos.
        unlisted: number of video files that no list contains; they are left out.
    """

    classes: tuple[str, ...]
    sources: tuple[Source, ...]
    unlisted: int = 0


def find_dataset(name: str, videos: str, annotations: str | None) -> Dataset:
    """Match the lists of a dataset with the files below ``videos`` (local paths or URIs).

    Raises:
        DataError: the name is unknown, a folder or list is missing or wrong, or there are no videos.
    """
    check_name(name, DATASETS)
    if name in ("ucf101", "hmdb51", "kinetics") and annotations is None:
        raise DataError(f"--dataset {name} needs --annotations, the folder of its official lists")
    if name == "ut-interaction" and annotations is not None:
        raise DataError("--dataset ut-interaction takes no --annotations: the file names contain the classes")
    files = list_videos(videos)
    if not files:
        raise DataError(f"--videos={videos} contains no video files ({', '.join(EXTENSIONS)})")
    return FINDERS[name](files, annotations)


def check_name(name: str | None, names: Iterable[str]) -> None:
    """Raises:
    DataError: ``name`` is not one of ``names``.
    """
    known = list(names)
    if name is None:
        raise DataError(f"--dataset is missing; choose one of {', '.join(known)}")
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0)[0]
        raise DataError(f"--dataset must be one of {', '.join(known)}, but is {name!r}; the nearest is {near}")


def list_videos(folder: str) -> dict[str, int]:
    """Relative path -> size of every video file below ``folder``, sorted, without hidden files and folders.

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
    return {path: files[path] for path in sorted(files) if is_video(path)}


def check_links(root: str) -> None:
    """Raises:
    DataError: a link leads to a folder around it, so that every video would be found again and again.
    """
    for folder, names, _ in os.walk(root):
        for link in (path for name in names if os.path.islink(path := os.path.join(folder, name))):
            if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(link)):
                raise DataError(f"--videos must not have a link to a folder around it, but {link} is one; remove it")


def is_video(path: str) -> bool:
    parts = PurePosixPath(path)
    return parts.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in parts.parts)


def read_lists(location: str, pattern: str, needed: str) -> dict[str, str]:
    """Name -> text of every file in a folder whose full name matches ``pattern``, or of a single file.

    Raises:
        DataError: there is no such file, or one is not UTF-8 text.
    """
    fs, root = open_folder(location)
    (info,) = fs.get_file_info([root])
    if info.type == pa.fs.FileType.File:
        infos = [info]
    elif info.type == pa.fs.FileType.Directory:
        infos = [i for i in fs.get_file_info(pa.fs.FileSelector(root)) if re.fullmatch(pattern, i.base_name, re.I)]
    else:
        raise DataError(f"--annotations={location} does not exist")
    if not infos:
        raise DataError(f"--annotations={location} must contain {needed}")
    texts = {}
    for info in sorted(infos, key=lambda i: str(i.base_name)):
        try:
            with fs.open_input_stream(info.path) as source:
                texts[info.base_name] = source.read().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {info.path} as UTF-8 text: {error}") from error
    return texts


def find_ucf101(files: Files, annotations: str | None) -> Dataset:
    texts = read_lists(
        annotations or "", r"classInd\.txt|(train|test)list0[123]\.txt", "classInd.txt and trainlist01.txt"
    )
    names = {name.lower(): name for name in texts}
    lists = [name for name in sorted(names) if name != "classind.txt"]
    if "classind.txt" not in names or not lists:
        raise DataError(f"--annotations must contain classInd.txt, trainlist01.txt, …, but contains {list(texts)}")
    classes = parse_classes("classInd.txt", texts[names["classind.txt"]])
    entries = [
        entry
        for name in lists
        for entry in parse_ucf_list(names[name], texts[names[name]], classes, f"{name[: name.index('list')]}{name[-5]}")
    ]
    return paired(merge(entries), files, [classes[number] for number in sorted(classes)])


def find_hmdb51(files: Files, annotations: str | None) -> Dataset:
    texts = read_lists(annotations or "", r".+_test_split[123]\.txt", "the lists CLASS_test_split1.txt, …")
    entries = merge(entry for name, text in texts.items() for entry in parse_hmdb_list(name, text))
    return paired(entries, files)


def find_kinetics(files: Files, annotations: str | None) -> Dataset:
    texts = read_lists(annotations or "", r".+\.csv", "CSV lists")
    entries = merge(entry for name, text in texts.items() for entry in parse_kinetics(name, text))
    stems: dict[str, str] = {}
    for path in files:
        stems.setdefault(PurePosixPath(path).stem, path)
    return paired(entries, files, rules=[lambda entry: stems.get(entry.key), lambda entry: stems.get(entry.key[:-14])])


def find_ut_interaction(files: Files, annotations: str | None) -> Dataset:
    """Ten folds, each of which tests one sequence, because a sequence has its own people and background."""
    sources = []
    for path, size in files.items():
        match = UT_NAME.fullmatch(PurePosixPath(path).stem)
        if not match or int(match[1]) not in UT_SEQUENCES or int(match[2]) >= len(UT_CLASSES):
            raise DataError(f"a file name must be ID_SEQUENCE_CLASS (1 to 10, 0 to 5), but is {path!r}")
        folds = (f"{'test' if k == int(match[1]) else 'train'}{k}" for k in UT_SEQUENCES)
        sources.append(Source(path, path, UT_CLASSES[int(match[2])], tuple(sorted(folds)), size))
    return Dataset(UT_CLASSES, tuple(sources))


def find_folder(files: Files, annotations: str | None) -> Dataset:
    """The classes come from the table ``file,class[,split][,group]`` if there is one, else from the folders."""
    if annotations is not None:
        texts = read_lists(annotations, r".+\.csv", "a CSV table")
        return paired(merge(entry for name, text in texts.items() for entry in parse_table(name, text)), files)
    parts = {path: PurePosixPath(path).parts[:-1] for path in files}
    by_split = all(folders and folders[0] in SPLITS for folders in parts.values())
    sources = []
    for path, folders in parts.items():
        label = "/".join(folders[1:] if by_split else folders)
        split = SPLITS[folders[0]] if by_split else "train"
        sources.append(Source(path, path, label or None, (split,), files[path]))
    return Dataset(tuple(sorted({source.label for source in sources if source.label})), tuple(sources))


FINDERS: dict[str, Callable[[Files, str | None], Dataset]] = {
    "ucf101": find_ucf101,
    "hmdb51": find_hmdb51,
    "kinetics": find_kinetics,
    "ut-interaction": find_ut_interaction,
    "folder": find_folder,
}
DATASETS = tuple(FINDERS)

Rule = Callable[[Entry], str | None]


def paired(
    entries: list[Entry], files: Files, classes: Iterable[str] | None = None, rules: list[Rule] | None = None
) -> Dataset:
    """Match every entry with a file, by the first of ``rules`` that finds one.

    A file belongs to at most one entry. If a rule finds the same file for two entries, neither gets it, so that no
    video gets the class of another.
    """
    found: dict[str, str] = {}
    for rule in path_rules(files) if rules is None else rules:
        taken = set(found.values())
        candidates = {entry.key: rule(entry) for entry in entries if entry.key not in found}
        count = Counter(candidates.values())
        found |= {key: path for key, path in candidates.items() if path and path not in taken and count[path] == 1}
    sources = []
    for entry in entries:
        path = found.get(entry.key)
        size = files[path] if path is not None else None
        sources.append(Source(entry.key, path or entry.key, entry.label, entry.splits, size, entry.group))
    labels = sorted({entry.label for entry in entries if entry.label}) if classes is None else classes
    return Dataset(tuple(labels), tuple(sources), len(files) - len(found))


def path_rules(files: Files) -> list[Rule]:
    """The listed path, then the same in another case, then the only file of that name anywhere below the folder."""
    folded = _unique((path.casefold(), path) for path in files)
    names = _unique((PurePosixPath(path).name.casefold(), path) for path in files)
    return [
        lambda entry: entry.key if entry.key in files else None,
        lambda entry: folded.get(entry.key.casefold()),
        lambda entry: names.get(PurePosixPath(entry.key).name.casefold()),
    ]


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    listed = list(pairs)
    count = Counter(key for key, _ in listed)
    return {key: value for key, value in listed if count[key] == 1}
