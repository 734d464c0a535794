"""A run's folder: its name, the files that identify the run, and its recorded metrics. Imports no torch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from paramcrop.errors import ConfigError, DataError
from paramcrop.settings.config import Config
from paramcrop.settings.identity import flatten, identity, older_id, recorded, run_id
from paramcrop.storage.files import atomic_write, open_folder
from paramcrop.storage.jsonl import append_line, read_lines
from paramcrop.storage.mirror import Mirror, check_writable, folders_in
from paramcrop.storage.versions import commit, versions


def home() -> Path:
    """The default folder of runs and synthetic data: $PARAMCROP_HOME or ~/paramcrop."""
    return Path(os.environ.get("PARAMCROP_HOME", "~/paramcrop")).expanduser().resolve()


def run_folder(config: Config, data_id: str) -> Path:
    """The run's folder on a file system (see ``find_run``), created if it does not exist.

    Raises:
        ConfigError: ``run.storage`` is not a writable folder.
    """
    folder = find_run(config, data_id).folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run.storage must be a writable folder: {folder.parent}: {error.strerror}") from None
    return folder


def run_place(config: Config, data_id: str, who: str = "command") -> Mirror:
    """Where this run is stored: its ``run_folder``, or, if ``run.storage`` is a URI, ``who``'s local copy of it.

    Raises:
        ConfigError, DataError: ``run.storage`` is not writable.
    """
    storage = (config.run.storage or "").rstrip("/")
    if "://" not in storage:
        return Mirror(run_folder(config, data_id))
    listed = folders_in(storage)
    place = find_run(config, data_id, who, lambda uri: listed)
    if place.folder.name not in listed:
        check_writable(storage)
    return place


def find_run(
    config: Config, data_id: str, who: str = "command", listed: Callable[[str], list[str]] = folders_in
) -> Mirror:
    """The folder below ``run.storage`` whose name ends in this run's id; without one, NAME-ID, not yet created.

    Args:
        listed: ``folders_in``, or a function that caches its results.

    Raises:
        DataError: ``run.storage`` is a URI that cannot be read.
        ConfigError: ``run.storage`` is a folder that cannot be read.
    """
    own = run_id(config, data_id)
    storage, name = (config.run.storage or str(home() / "runs")).rstrip("/"), f"{config.run.name}-{own}"
    if "://" in storage:
        found = [folder for folder in listed(storage) if folder.endswith(f"-{own}")]
        return Mirror.of(f"{storage}/{name if name in found else min(found, default=name)}", who)
    folder = Path(storage).expanduser().resolve()
    try:
        place = folder / name
        return Mirror(place if place.exists() else min(folder.glob(f"*-{own}"), default=place))
    except OSError as error:
        raise ConfigError(f"run.storage must be a readable folder: {folder}: {error.strerror}") from None


def older_run(config: Config, content_id: str) -> Path | None:
    """The folder below ``run.storage`` of a run with these settings whose id is of version 1; None: there is none.

    A storage in a bucket is not searched.
    """
    storage, older = config.run.storage or str(home() / "runs"), older_id(config, content_id)
    if "://" in storage or older is None:
        return None
    return min(Path(storage).expanduser().resolve().glob(f"*-{older}"), default=None)


def method_version(folder: Path) -> int:
    """The ``METHOD_VERSION`` that a run was trained with.

    Raises:
        DataError: its provenance is missing or damaged.
    """
    version: int = read_provenance(folder).get("method_version", 1)
    return version


def write_status(folder: Path, state: str, **facts: Any) -> None:
    """Record the run's state: running, finished, failed, interrupted, or stopped@EPOCH."""
    _write_json(folder / "status.json", {"state": state} | facts)
    append_line(folder / "history.jsonl", {"event": state} | facts)


def read_status(folder: Path) -> dict[str, Any]:
    """The last ``write_status``; {"state": "new"} if there is none, and {"state": "damaged"} if it cannot be read."""
    try:
        status = json.loads((folder / "status.json").read_text())
    except FileNotFoundError:
        return {"state": "new"}
    except ValueError:
        status = None
    return status if isinstance(status, dict) and "state" in status else {"state": "damaged"}


def is_finished(folder: Path) -> bool:
    """Whether the run has reached its end and its last checkpoint exists."""
    status = read_status(folder)
    if status["state"] != "finished":
        return False
    return (folder / "checkpoints" / str(status["checkpoint"]) / "meta.json").exists()


def write_provenance(folder: Path, config: Config, data_id: str, videos: Mapping[str, Any] = {}) -> None:
    """Write config.yaml (the resolved settings) and provenance.json (identity, videos, command, commit, versions)."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    facts = {"run_id": run_id(config, data_id)} | identity(config, data_id)
    facts |= {"videos": dict(videos), "command": sys.argv, "commit": commit()}
    facts |= {"python": sys.version.split()[0], "versions": versions()}
    _write_json(folder / "provenance.json", facts)  # last: if it exists, a later start expects config.yaml as well


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    with atomic_write(path) as part:
        part.write_text(json.dumps(fields, indent=1))


def changes(folder: Path, config: Config) -> list[str]:
    """What differs from the run's first start: settings outside its identity, commit, versions; one line each.

    Raises:
        DataError: config.yaml or provenance.json is damaged.
    """
    try:
        then = defaults() | recorded(yaml.safe_load((folder / "config.yaml").read_text()))
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        raise DataError(f"{folder}/config.yaml must contain settings, but is damaged") from None
    now = flatten(config.model_dump(mode="json"))
    facts = read_provenance(folder)
    then |= {"commit": facts.get("commit")} | facts.get("versions", {})
    now |= {"commit": commit()} | versions()
    return [f"{name} was {then.get(name)}, is {value}" for name, value in now.items() if then.get(name) != value]


def read_provenance(folder: Path) -> dict[str, Any]:
    """What ``write_provenance`` wrote into provenance.json.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / "provenance.json").read_text())
        facts["data"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else "is damaged"
        raise DataError(f"{folder}/provenance.json must say what a run is of, but {reason}") from None
    return facts


def defaults() -> dict[str, Any]:
    """Of every setting, for a run that began before there was a setting."""
    return flatten(Config().model_dump(mode="json"))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """A run's metrics so far, one dict per logged step."""
    return read_lines(folder / "metrics.jsonl")


STATUS = ("status.json", "history.jsonl")  # written by the command


def begin(place: Mirror, config: Config, data_id: str, about: dict[str, Any], say: Callable[[str], None]) -> None:
    """Record the start of a run: its provenance if it is the first, else the changes since then (also to ``say``)."""
    place.fetch()
    folder = place.folder
    (folder / "stop").unlink(missing_ok=True)
    place.remove("stop")
    again = (folder / "provenance.json").exists()
    differences = list[str]()
    try:
        differences = changes(folder, config) if again else []
    except DataError as error:  # the folder's name says which run it is
        say(f"note: {error}; it is written anew")
        again = False
    if not again:
        folder.mkdir(parents=True, exist_ok=True)
        write_provenance(folder, config, data_id, about)
    for line in differences:
        say(f"note: {line}")
    write_status(folder, "running", command=sys.argv, commit=commit(), changes=differences)
    place.send("config.yaml", "provenance.json", *STATUS)


@contextmanager
def ending(place: Mirror, steps: int) -> Iterator[None]:
    """Record how the run ends: finished after ``steps``, stopped before, interrupted, or failed."""
    from paramcrop.storage.checkpoint import newest_checkpoint, steps_done

    try:
        yield
    except KeyboardInterrupt:
        _write(place, "interrupted")
        raise
    except BaseException as error:
        with suppress(OSError):  # the disk is full, which ``error`` reports already
            _write(place, "failed", error=str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise
    place.fetch()
    newest, _ = newest_checkpoint(place.folder, place.fetch)
    epoch, step = steps_done(newest)
    state = "finished" if step == steps else f"stopped@{epoch}"
    _write(place, state, checkpoint=newest.name if newest else None)


def _write(place: Mirror, state: str, **facts: Any) -> None:
    with suppress(OSError):  # fetch first: the workers have appended to the history
        place.fetch("history.jsonl", waits=())
    write_status(place.folder, state, **facts)
    place.send(*STATUS)


STOP = "stop"
NOW = b"now"  # its content if the run is to end after the current step; otherwise it ends after its epoch


def ask_to_stop(run: str, now: bool = False) -> None:
    """Ask the run in this folder or at this URI to save a checkpoint and end: ``now``, or after its epoch.

    Raises:
        OSError: the file cannot be written.
    """
    fs, root = open_folder(run)
    with fs.open_output_stream(f"{root}/{STOP}") as file:
        file.write(NOW if now else b"")


def asked_to_stop_now(folder: Path) -> bool:
    """Whether the run in this folder was asked to end after the current step."""
    try:
        return (folder / STOP).read_bytes() == NOW
    except FileNotFoundError:
        return False
