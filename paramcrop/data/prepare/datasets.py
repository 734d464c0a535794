"""The videos of a dataset: the entries of its lists, matched with files."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.fs

from paramcrop.data.groups import group_of, hold_out
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
from paramcrop.data.prepare.files import EXTENSIONS, Files, is_video, list_files
from paramcrop.data.prepare.matching import Rule, matched, path_rules
from paramcrop.errors import DataError
from paramcrop.storage.files import open_folder

UT_CLASSES = ("hand shake", "hug", "kick", "point", "punch", "push")
UT_SEQUENCES = range(1, 11)
UT_NAME = re.compile(r"\d+_(\d+)_(\d)")


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
        warnings: what a user should know of the folders.
        unreadable: rows of the lists that cannot be read, as "list:line: reason"; they are left out.
    """

    classes: tuple[str, ...]
    sources: tuple[Source, ...]
    unlisted: int = 0
    warnings: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()


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
    files = list_files(videos)
    if annotations is None:
        files = {path: size for path, size in files.items() if is_video(path)}
    if not files:
        raise DataError(f"--videos={videos} contains no video files ({', '.join(EXTENSIONS)})")
    return FINDERS[name](files, annotations)


def with_test_share(dataset: Dataset, name: str, share: float, seed: int) -> Dataset:
    """The same videos in new splits: about ``share`` of each class is "test", the rest "train"; no group is divided.

    Args:
        name: name of the dataset, whose ids may contain the groups.

    Raises:
        DataError: the dataset has splits of its own.
    """
    if given := {split for source in dataset.sources for split in source.splits} - {"train"}:
        raise DataError(f"--test-share needs a set without splits, but this one has {', '.join(sorted(given))}")
    groups = [source.group or group_of(name, source.id) for source in dataset.sources]
    numbers = {label: number for number, label in enumerate(dataset.classes)}
    labels = [numbers.get(source.label or "", -1) for source in dataset.sources]
    held = hold_out(groups, labels, share, seed)
    sources = [replace(s, splits=("test" if out else "train",)) for s, out in zip(dataset.sources, held, strict=True)]
    tested = {source.label for source in sources if source.splits == ("test",)}
    warnings = [f"class {label} is in train only, because its videos are one group" for label in dataset.classes]
    untested = [line for line, label in zip(warnings, dataset.classes, strict=True) if label not in tested]
    return replace(dataset, sources=tuple(sources), warnings=(*dataset.warnings, *untested))


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
    bad, entries = list[str](), list[Entry]()
    for name in lists:
        split = f"{name[: name.index('list')]}{name[-5]}"
        entries += parse_ucf_list(names[name], texts[names[name]], classes, split, bad)
    labels = [classes[number] for number in sorted(classes)]
    return paired(merge(entries), files, labels, by_name=True, unreadable=bad)


def find_hmdb51(files: Files, annotations: str | None) -> Dataset:
    texts = read_lists(annotations or "", r".+_test_split[123]\.txt", "the lists CLASS_test_split1.txt, …")
    bad = list[str]()
    entries = merge(entry for name, text in texts.items() for entry in parse_hmdb_list(name, text, bad))
    return paired(entries, files, by_name=True, unreadable=bad)


def find_kinetics(files: Files, annotations: str | None) -> Dataset:
    texts = read_lists(annotations or "", r".+\.csv", "CSV lists")
    bad = list[str]()
    entries = merge(entry for name, text in texts.items() for entry in parse_kinetics(name, text, bad))
    stems: dict[str, str] = {}
    for path in filter(is_video, files):
        stems.setdefault(PurePosixPath(path).stem, path)
    rules: list[Rule] = [lambda entry: stems.get(entry.key), lambda entry: stems.get(entry.key[:-14])]
    return paired(entries, files, rules=rules, unreadable=bad)


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
        bad = list[str]()
        entries = merge(entry for name, text in texts.items() for entry in parse_table(name, text, bad))
        return paired(entries, files, unreadable=bad)
    splits, warnings = split_folders(files)
    sources = []
    for path, size in files.items():
        folders = PurePosixPath(path).parts[:-1]
        if splits and not (folders and folders[0] in splits):
            continue
        label = "/".join(folders[1:] if splits else folders)
        split = splits[folders[0]] if splits else "train"
        sources.append(Source(path, path, label or None, (split,), size))
    classes = tuple(sorted({source.label for source in sources if source.label}))
    return Dataset(classes, tuple(sources), warnings=tuple(warnings))


def split_folders(files: Files) -> tuple[dict[str, str], list[str]]:
    """(outermost folder -> its split, warnings); empty: the outermost folders are classes.

    They are splits if all have the name of one, or if besides others there are a train and a val or test. A set of
    vehicles has a class "train", too.
    """
    tops = {PurePosixPath(path).parts[0] if "/" in path else "": path for path in files}
    splits = {top: SPLITS[top.casefold()] for top in tops if top.casefold() in SPLITS}
    others = {top: path for top, path in tops.items() if top not in splits}
    names = ", ".join(sorted(splits))
    if not splits or not others:
        return splits, []
    if set(others) != {""} and not ("train" in splits.values() and len(set(splits.values())) > 1):
        other = next(top for top in others if top)
        return {}, [f"the folder {names} is taken for a class and not for a split, because {other} is none"]
    left = [path for path in files if PurePosixPath(path).parts[0] not in splits]
    text = f"{len(left)} of the videos are in none of the folders of splits ({names}) and are left out"
    return splits, [f"{text}, such as {left[0]}"]


FINDERS: dict[str, Callable[[Files, str | None], Dataset]] = {
    "ucf101": find_ucf101,
    "hmdb51": find_hmdb51,
    "kinetics": find_kinetics,
    "ut-interaction": find_ut_interaction,
    "folder": find_folder,
}
DATASETS = tuple(FINDERS)


def paired(
    entries: list[Entry],
    files: Files,
    classes: Iterable[str] | None = None,
    rules: list[Rule] | None = None,
    by_name: bool = False,
    unreadable: Iterable[str] = (),
) -> Dataset:
    """Match every entry with a file, see ``matched``; ``rules``: other than those of ``path_rules``."""
    found = matched(entries, path_rules(entries, files, by_name) if rules is None else rules)
    sources = []
    for entry in entries:
        path = found.get(entry.key)
        size = files[path] if path is not None else None
        sources.append(Source(entry.key, path or entry.key, entry.label, entry.splits, size, entry.group))
    labels = sorted({entry.label for entry in entries if entry.label}) if classes is None else classes
    unlisted = len({path for path in files if is_video(path)} - set(found.values()))
    return Dataset(tuple(labels), tuple(sources), unlisted, unreadable=tuple(unreadable))
