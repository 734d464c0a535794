"""Which file is which entry of a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

from paramcrop.data.prepare.annotations import Entry
from paramcrop.data.prepare.files import Files, is_video

Rule = Callable[[Entry], str | None]


def matched(entries: list[Entry], rules: list[Rule]) -> dict[str, str]:
    """Key -> file of the entries that have one, by the first of ``rules`` that finds it.

    A file belongs to at most one entry. If a rule finds the same file for two entries, neither gets it, so that no
    video gets the class of another.
    """
    found: dict[str, str] = {}
    for rule in rules:
        taken = set(found.values())
        candidates = {entry.key: rule(entry) for entry in entries if entry.key not in found}
        count = Counter(candidates.values())
        found |= {key: path for key, path in candidates.items() if path and path not in taken and count[path] == 1}
    return found


def path_rules(entries: list[Entry], files: Files, by_name: bool) -> list[Rule]:
    """The listed path; then in another case; below other folders; in a folder that the list names and the disk lacks.

    Then the same with another extension, as of videos that were converted. At last the name alone: if an entry is no
    more than that, or ``by_name``, for lists whose names say what a video is. A name counts if no other entry and no
    other file has it.
    """
    rules: list[Rule] = [lambda entry: entry.key if entry.key in files else None]
    videos = [path for path in files if is_video(path)]
    for spelt in (str.casefold, _without_extension):
        rules += _rules_of_spelling(entries, videos, spelt)
    listed = Counter(_name(entry.key) for entry in entries)
    names = unique((_name(path), path) for path in videos)
    alone = {name for name, count in listed.items() if count == 1}

    def name(entry: Entry) -> str | None:
        own = _name(entry.key)
        return names.get(own) if own in alone and (by_name or "/" not in entry.key) else None

    return [*rules, name]


def _rules_of_spelling(entries: list[Entry], videos: list[str], spelt: Callable[[str], str]) -> list[Rule]:
    """Rules that compare paths as ``spelt``; a path that two entries or files then share says nothing."""
    count = Counter(spelt(entry.key) for entry in entries)
    short = Counter(tail for entry in entries for tail in _tails(spelt(entry.key)))
    whole = unique((spelt(path), path) for path in videos)
    below = unique((tail, path) for path in videos for tail in _tails(spelt(path)) if "/" in tail)
    folders = {part for path in videos for part in PurePosixPath(spelt(path)).parts[:-1]}

    def above(entry: Entry) -> str | None:
        parts = PurePosixPath(spelt(entry.key)).parts
        if folders.intersection(parts[:-1]):
            return None  # the disk has folders as the list has, but not this file in them
        return next((whole[t] for t in _tails(spelt(entry.key)) if t in whole and short[t] == 1), None)

    return [
        lambda entry: whole.get(spelt(entry.key)) if count[spelt(entry.key)] == 1 else None,
        lambda entry: below.get(spelt(entry.key)) if count[spelt(entry.key)] == 1 else None,
        above,
    ]


def _tails(path: str) -> Iterator[str]:
    """The path without its first folder, its first two, …"""
    parts = PurePosixPath(path).parts
    return ("/".join(parts[i:]) for i in range(1, len(parts)))


def _without_extension(path: str) -> str:
    return str(PurePosixPath(path).with_suffix("")).casefold()


def _name(path: str) -> str:
    return PurePosixPath(path).name.casefold()


def unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The pairs whose key occurs once."""
    listed = list(pairs)
    count = Counter(key for key, _ in listed)
    return {key: value for key, value in listed if count[key] == 1}
