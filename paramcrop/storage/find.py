"""Find a run by its folder, its name or id below runs/, or its URI; names for several runs. Imports no torch."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

import yaml

from paramcrop.errors import DataError, ParamCropError
from paramcrop.settings.identity import recorded, where_fields
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import defaults, home

ID = re.compile(r"[0-9a-f]{12}")
NAME = " name of the set"  # a key that no setting has


def run_named(name: str, what: str = "--run") -> Path:
    """The folder of a run; for a URI, this machine's copy of it.

    Args:
        name: a folder, a name below ``home() / "runs"``, its ``run.name``, the 12 hex digits it ends in, or a URI.
        what: the option or argument that names the run, for the error.

    Raises:
        DataError: there is no such run, or a ``run.name`` or id fits several folders.
    """
    if "://" in name:
        return copy_of(name, "command", "config.yaml", f"{what} must be the URI of a run")
    runs = home() / "runs"
    places = [Path(name).expanduser().resolve(), runs / name]
    if place := next((p for p in places if (p / "config.yaml").exists()), None):
        return place
    pattern = f"*-{name}/config.yaml" if ID.fullmatch(name) else f"{escape(name)}-{'[0-9a-f]' * 12}/config.yaml"
    found = sorted(path.parent for path in runs.glob(pattern)) if Path(name).name == name else []
    if len(found) > 1:
        kind, some = "id" if ID.fullmatch(name) else "name", " and ".join(run.name for run in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise DataError(f"{what} must name one run, but {name} is the {kind} of {some}{more}")
    if not found:
        raise DataError(f"{what} must be the folder of a run, but neither {places[0]} nor {places[1]} is one")
    return found[0]


def copy_of(uri: str, who: str, file: str, must: str) -> Path:
    """The local copy, that of ``who``, of a folder in a bucket.

    Args:
        file: one that it must have. must: what ``uri`` must be, for the error, as in "--run must be the URI of a run".

    Raises:
        DataError: there is no such folder, or the store does not answer.
    """
    place = Mirror.of(uri.rstrip("/"), who)
    fetch_now(place, must)
    if not (place.folder / file).is_file():
        raise DataError(f"{must}, but {uri} has no {file}")
    return place.folder


def fetch_now(place: Mirror, must: str) -> None:
    """Bring a local copy up to date, without waiting for a store that does not answer.

    Raises:
        DataError: it does not; the text begins with ``must``.
    """
    try:
        place.fetch(waits=())
    except (OSError, ParamCropError) as error:
        raise DataError(f"{must}, but {place.uri}: {' '.join(str(error).split())[:200]}") from None


def label_runs(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Label -> its runs. A label lists the settings and data in which the runs differ; seeds share a label.

    Raises:
        DataError: a folder does not hold a run.
    """
    settings = [_settings_and_data(folder) for folder in folders]
    _name_sets(settings)
    named = set.union(*(set(one) for one in settings)) - {"run.name"}
    differing = sorted(name for name in named if len({str(one.get(name)) for one in settings}) > 1)
    labels: dict[str, list[Path]] = {}
    for folder, one in zip(folders, settings, strict=True):
        parts = [f"{_short(name, differing)}={one.get(name)}" for name in differing]
        label = ", ".join(parts) or str(one["run.name"])
        labels.setdefault(label, []).append(folder)
    return labels


def _short(name: str, names: Sequence[str]) -> str:
    """The last part of a dotted key, if no other of ``names`` ends in it; else the full key."""
    last = name.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in names) == 1 else name


def _settings_and_data(folder: Path) -> dict[str, Any]:
    """A run's settings that can change its result, its name, and the content id of its data."""
    try:
        settings = defaults() | recorded(yaml.safe_load((folder / "config.yaml").read_text()))
        facts = json.loads((folder / "provenance.json").read_text())
        data, name = facts["data"], facts.get("videos", {}).get("dataset", "")
    except (OSError, ValueError, KeyError, AttributeError, yaml.YAMLError):
        raise DataError(
            f"a run's folder must have a config.yaml and a provenance.json, but {folder} does not"
        ) from None
    left_out = (where_fields() | {"seed"}) - {"run.name"}
    return {name: value for name, value in settings.items() if name not in left_out} | {"data": data, NAME: name}


def _name_sets(runs: Sequence[dict[str, Any]]) -> None:
    """Replace the content ids of the sets that runs are of by the sets' names, where these tell the sets apart."""
    names = {run["data"]: run.pop(NAME) or run["data"] for run in runs}
    twice = {name for name, count in Counter(names.values()).items() if count > 1}
    for run in runs:
        name = names[run["data"]]
        run["data"] = f"{name}:{run['data'][:6]}" if name in twice else name
