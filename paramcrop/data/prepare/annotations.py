"""Parsers of the official lists of datasets: text -> entries. No file is read here.

Every function takes the name and the text of a list; errors name the place as ``name:line``. Where a function takes
``bad``, the errors of single rows are added to it and the other rows are read; without, the first one is raised.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TypeVar

from paramcrop.errors import DataError

SPLITS = {"train": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val", "test": "test"}
HMDB_SPLITS = {"0": None, "1": "train", "2": "test"}
ROLE = re.compile(r"(train|val|test)(\d*)")
Row = TypeVar("Row")
KINETICS_COLUMNS = ("youtube_id", "time_start", "time_end", "split")


@dataclass(frozen=True)
class Entry:
    """One listed video.

    Attributes:
        key: its path in the list (posix, relative), or ``{youtube_id}_{start}_{end}`` for Kinetics.
        label: class name; None: the list has no class.
        splits: names such as "train1", "test2"; empty: listed, but in no split.
        where: ``list:line`` of the entry.
        group: name of its group of near-duplicates; empty: the list has none.
    """

    key: str
    label: str | None
    splits: tuple[str, ...]
    where: str
    group: str = ""


def parse_classes(name: str, text: str) -> dict[int, str]:
    """UCF101's classInd.txt, with lines such as ``1 ApplyEyeMakeup`` -> number (from 1) -> class name."""
    classes: dict[int, str] = {}
    for where, line in _lines(name, text):
        number, *label = line.split()
        if len(label) != 1 or not number.isdecimal() or int(number) in classes:
            raise DataError(f"{where}: a line must have a new number and a class, but is {line!r}")
        classes[int(number)] = label[0]
    return classes


def parse_ucf_list(
    name: str, text: str, classes: Mapping[int, str], split: str, bad: list[str] | None = None
) -> list[Entry]:
    """UCF101's trainlist (``Class/v_X_gNN_cNN.avi 1``) or testlist (without the number).

    The directory is the class, in upper or lower case; a number must agree with it.
    """
    numbers = {label.casefold(): number for number, label in classes.items()}

    def entry(where: str, line: str) -> Entry:
        path, *number = line.split()
        directory, inside, _ = _safe(where, path).partition("/")
        own = numbers.get(directory.casefold())
        if own is None or not inside:
            raise DataError(f"{where}: the directory of a video must be one of the classes, but the path is {path!r}")
        if number and number != [str(own)]:
            label = " ".join(number)
            raise DataError(f"{where}: the number of {classes[own]} must be {own} as in classInd.txt, but is {label}")
        return Entry(path, classes[own], (split,), where)

    return _readable(name, _lines(name, text), entry, bad)


def parse_hmdb_list(name: str, text: str, bad: list[str] | None = None) -> list[Entry]:
    """HMDB51's ``CLASS_test_splitK.txt`` with lines ``file.avi N``: N = 1 train, 2 test, 0 neither."""
    label, _, number = name.removesuffix(".txt").rpartition("_test_split")
    if not label or number not in ("1", "2", "3"):
        raise DataError(f"{name}: the name of an HMDB51 list must be CLASS_test_split1.txt (or 2, 3)")

    def entry(where: str, line: str) -> Entry:
        file, *role = line.rsplit(None, 1)
        if not role or role[0] not in HMDB_SPLITS:
            raise DataError(f"{where}: a line must have a file and 0, 1 or 2, but is {line!r}")
        split = HMDB_SPLITS[role[0]]
        path = f"{label}/{_safe(where, file)}"
        return Entry(path, label, (f"{split}{number}",) if split else (), where)

    return _readable(name, _lines(name, text), entry, bad)


def parse_kinetics(name: str, text: str, bad: list[str] | None = None) -> list[Entry]:
    """A Kinetics CSV: ``[label,]youtube_id,time_start,time_end,split[,...]``, times in seconds."""

    def entry(where: str, row: dict[str, str]) -> Entry:
        try:
            start, end = int(float(row["time_start"])), int(float(row["time_end"]))
        except (ValueError, OverflowError):
            times = f"{row['time_start']!r}, {row['time_end']!r}"
            raise DataError(f"{where}: time_start and time_end must be seconds, but are {times}") from None
        if not re.fullmatch(r"[\w-]+", row["youtube_id"], re.ASCII):
            raise DataError(
                f"{where}: youtube_id must consist of letters, digits, - and _, but is {row['youtube_id']!r}"
            )
        key = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        return Entry(key, row.get("label") or None, (_split(where, row["split"]),), where)

    return _readable(name, _table(name, text, KINETICS_COLUMNS, bad), entry, bad)


def parse_table(name: str, text: str, bad: list[str] | None = None) -> list[Entry]:
    """A user's table ``file,class[,split][,group]``; without a split: "train"; without a class: unlabelled."""

    def entry(where: str, row: dict[str, str]) -> Entry:
        splits = (split_name(row.get("split") or "train"),)
        return Entry(_safe(where, row["file"]), row["class"] or None, splits, where, row.get("group", ""))

    return _readable(name, _table(name, text, ("file", "class"), bad), entry, bad)


def split_name(text: str) -> str:
    """The usual name of a split: "Train" -> "train", "Validation2" -> "val2"; other names stay as they are."""
    match = re.fullmatch(r"([a-z]+)(\d*)", text.casefold())
    return SPLITS[match[1]] + match[2] if match and match[1] in SPLITS else text


def merge(entries: Iterable[Entry]) -> list[Entry]:
    """One entry per video with the sorted splits of all its lines, in the order of the first lines.

    Raises:
        DataError: a video has two classes or groups, or is in both train and test (or val) of one split.
    """
    merged: dict[str, Entry] = {}
    for entry in entries:
        first = merged.setdefault(entry.key, entry)
        if None not in (first.label, entry.label) and first.label != entry.label:
            raise DataError(
                f"a video must have one class, but {entry.key} is {first.label!r} in {first.where} "
                f"and {entry.label!r} in {entry.where}"
            )
        if "" not in (first.group, entry.group) and first.group != entry.group:
            raise DataError(
                f"a video must have one group, but {entry.key} is in {first.group!r} in {first.where} "
                f"and in {entry.group!r} in {entry.where}"
            )
        splits = tuple(sorted({*first.splits, *entry.splits}))
        _check_roles(entry, splits)
        label, group = first.label or entry.label, first.group or entry.group
        merged[entry.key] = replace(first, label=label, splits=splits, group=group)
    return list(merged.values())


def _check_roles(entry: Entry, splits: tuple[str, ...]) -> None:
    roles: dict[str, str] = {}
    for match in filter(None, map(ROLE.fullmatch, splits)):
        other = roles.setdefault(match[2], match[0])
        if other != match[0]:
            raise DataError(
                f"a video must be in one part of a split, but {entry.key} is in {other} and {match[0]} ({entry.where})"
            )


def _readable(
    name: str, rows: Iterable[tuple[str, Row]], entry: Callable[[str, Row], Entry], bad: list[str] | None
) -> list[Entry]:
    """An entry of every row. Errors of rows are added to ``bad``, unless it is None or most rows have one."""
    before, entries = len(bad or ()), list[Entry]()
    for where, row in rows:
        try:
            entries.append(entry(where, row))
        except DataError as error:
            if bad is None:
                raise
            bad.append(str(error))
    if bad is not None and len(bad) - before > len(entries):
        raise DataError(f"{bad[before]} ({len(bad) - before} rows of {name} cannot be read, and {len(entries)} can)")
    return entries


def _lines(name: str, text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"{name}:{number}", line.strip()


def _table(
    name: str, text: str, columns: Iterable[str], bad: list[str] | None = None
) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV as column -> stripped value."""
    reader = csv.DictReader(text.splitlines(keepends=True), restval="", skipinitialspace=True, strict=True)
    header = _header(name, reader, columns)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = f"{name}:{reader.reader.line_num}: not valid CSV: {error}"
            if bad is None or "unexpected end" in str(error) or "field limit" in str(error):  # a quote swallows rows
                raise DataError(problem) from error
            bad.append(problem)
            continue
        if any(isinstance(value, str) and value.strip() for value in row.values()):
            yield f"{name}:{reader.line_num}", {key: row[key].strip() for key in header}


def _header(name: str, reader: csv.DictReader[str], columns: Iterable[str]) -> list[str]:
    try:
        header = [field.strip() for field in reader.fieldnames or ()]
    except csv.Error as error:
        raise DataError(f"{name}:{reader.reader.line_num}: not valid CSV: {error}") from error
    missing = [column for column in columns if column not in header]
    if missing:
        raise DataError(f"{name}:1: the header must contain {', '.join(missing)}, but is {','.join(header)!r}")
    reader.fieldnames = header
    return header


def _split(where: str, name: str) -> str:
    if name not in SPLITS:
        raise DataError(f"{where}: the split must be one of {', '.join(SPLITS)}, but is {name!r}")
    return SPLITS[name]


def _safe(where: str, path: str) -> str:
    """The normalised ``path``; an error if it leads out of its folder."""
    if not path or path.startswith("/") or "\\" in path or ".." in PurePosixPath(path).parts:
        raise DataError(f"{where}: a path must stay below its folder, without .. or a backslash, but is {path!r}")
    return str(PurePosixPath(path))
