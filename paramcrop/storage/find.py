"""Find a run by its folder, its name or id below runs/, or its URI. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path

from paramcrop.errors import DataError, ParamCropError
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import home

ID = re.compile(r"[0-9a-f]{12}")


def run_named(name: str, what: str = "--run") -> Path:
    """The folder of a run; for a URI, this machine's copy of it.

    Args:
        name: a folder, a name below ``home() / "runs"``, the 12 hex digits that such a name ends in, or a URI.
        what: the option or argument that names the run, for the error.

    Raises:
        DataError: there is no such run, or an id fits several folders.
    """
    if "://" in name:
        return _fetched(name, what)
    runs = home() / "runs"
    places = [Path(name).expanduser().resolve(), runs / name]
    if place := next((p for p in places if (p / "config.yaml").exists()), None):
        return place
    found = sorted(p.parent for p in runs.glob(f"*-{name}/config.yaml")) if ID.fullmatch(name) else []
    if len(found) > 1:
        raise DataError(f"{what} must name one run, but {name} is the id of {' and '.join(p.name for p in found)}")
    if not found:
        raise DataError(f"{what} must be the folder of a run, but neither {places[0]} nor {places[1]} is one")
    return found[0]


def _fetched(uri: str, what: str) -> Path:
    """This command's copy of a run in a bucket.

    Raises:
        DataError: there is no such run.
    """
    place = Mirror.of(uri.rstrip("/"), "command")
    try:
        place.fetch(waits=())
    except (OSError, ParamCropError) as error:
        raise DataError(f"{what} must be the URI of a run, but {uri}: {' '.join(str(error).split())[:200]}") from None
    if not (place.folder / "config.yaml").exists():
        raise DataError(f"{what} must be the URI of a run, but {uri} has no config.yaml")
    return place.folder
