"""A run's folder: its name, what says which run it is, and reading back what it recorded. Imports no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from paramcrop.errors import ConfigError, DataError
from paramcrop.settings.config import Config
from paramcrop.settings.identity import flatten, identity, run_id, where_fields
from paramcrop.storage import bucket_lease
from paramcrop.storage.bucket_lease import BucketLease
from paramcrop.storage.files import whole
from paramcrop.storage.jsonl import append_line, read_lines
from paramcrop.storage.lease import Lease, is_newest
from paramcrop.storage.mirror import Mirror, check_writable, folders_in

PACKAGES = ("paramcrop", "torch", "torchvision", "ray", "numpy", "pyarrow", "decord", "av", "pydantic")


def home() -> Path:
    """Where data that is made up and runs go unless a setting says otherwise: $PARAMCROP_HOME or ~/paramcrop."""
    return Path(os.environ.get("PARAMCROP_HOME", "~/paramcrop")).expanduser().resolve()


def run_folder(config: Config, content_id: str) -> Path:
    """``find_run``'s folder of a run on a file system, made if it is not there.

    Raises:
        ConfigError: ``run.storage`` is not a folder that can be written to.
    """
    folder = find_run(config, content_id).folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        told = f"{folder.parent}: {error.strerror}"
        raise ConfigError(f"run.storage must be a folder that can be written to: {told}") from None
    return folder


def run_place(config: Config, content_id: str, who: str = "command") -> Mirror:
    """Where this run lies: ``run_folder``'s, or, if ``run.storage`` is a URI, ``who``'s copy of what lies there.

    Raises:
        ConfigError, DataError: ``run.storage`` cannot be written to.
    """
    storage = (config.run.storage or "").rstrip("/")
    if "://" not in storage:
        return Mirror(run_folder(config, content_id))
    listed = folders_in(storage)
    place = find_run(config, content_id, who, lambda uri: listed)
    if place.folder.name not in listed:
        check_writable(storage)
    return place


def find_run(
    config: Config, content_id: str, who: str = "command", listed: Callable[[str], list[str]] = folders_in
) -> Mirror:
    """The folder with this run's id below ``run.storage``, whatever its name; else NAME-ID, where it would be made.

    Args:
        listed: ``folders_in``, or what remembers its answers.

    Raises:
        DataError: ``run.storage`` is a URI that cannot be read. ConfigError: it is a folder that cannot be.
    """
    own = run_id(config, content_id)
    storage, name = (config.run.storage or str(home() / "runs")).rstrip("/"), f"{config.run.name}-{own}"
    if "://" in storage:
        found = [folder for folder in listed(storage) if folder.endswith(f"-{own}")]
        return Mirror.of(f"{storage}/{name if name in found else min(found, default=name)}", who)
    folder = Path(storage).expanduser().resolve()
    try:
        place = folder / name
        return Mirror(place if place.exists() else min(folder.glob(f"*-{own}"), default=place))
    except OSError as error:
        raise ConfigError(f"run.storage must be a folder that can be read: {folder}: {error.strerror}") from None


def set_aside(folder: Path) -> Path | None:
    """Give a run's folder another name, NAME-ID~1 and so on, so that the run can be made afresh; None: it is empty.

    Raises:
        LeaseError: another process works on it.
    """
    if not any(folder.iterdir()):
        return None
    with Lease(folder):
        aside = next(p for n in count(1) if not (p := folder.with_name(f"{folder.name}~{n}")).exists())
        folder.rename(aside)
    folder.mkdir()
    return aside


def write_status(folder: Path, state: str, **facts: Any) -> None:
    """How the run stands, for who looks next: running, finished, failed, interrupted, or stopped@EPOCH."""
    _write_json(folder / "status.json", {"state": state} | facts)
    append_line(folder / "history.jsonl", {"event": state} | facts)


def read_status(folder: Path) -> dict[str, Any]:
    """``write_status``'s last; {"state": "new"} before the first."""
    try:
        status: dict[str, Any] = json.loads((folder / "status.json").read_text())
    except FileNotFoundError:
        return {"state": "new"}
    return status


def is_finished(folder: Path) -> bool:
    """The run got to its end, and its last checkpoint is there."""
    status = read_status(folder)
    if status["state"] != "finished":
        return False
    return (folder / "checkpoints" / str(status["checkpoint"]) / "meta.json").exists()


def write_provenance(folder: Path, config: Config, content_id: str, videos: Mapping[str, Any] = {}) -> None:
    """The resolved settings, the identity they give, what the videos are, the commit and the versions that ran."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    facts = {"run_id": run_id(config, content_id)} | identity(config, content_id)
    facts |= {"videos": dict(videos), "command": sys.argv, "commit": commit()}
    facts |= {"python": sys.version.split()[0], "versions": versions()}
    _write_json(folder / "provenance.json", facts)  # last: a later start takes it that both are there


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    with whole(path) as part:
        part.write_text(json.dumps(fields, indent=1))


def changes(folder: Path, config: Config) -> list[str]:
    """What differs from the first start of a run that goes on: settings outside its identity, commit, versions."""
    then = flatten(yaml.safe_load((folder / "config.yaml").read_text()))
    now = flatten(config.model_dump(mode="json"))
    facts = json.loads((folder / "provenance.json").read_text())
    then |= {"commit": facts["commit"]} | facts["versions"]
    now |= {"commit": commit()} | versions()
    return [f"{name} was {then.get(name)}, is {value}" for name, value in now.items() if then.get(name) != value]


def label_runs(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """What tells runs apart -> the runs: the settings and data in which they differ; seeds share a label.

    Raises:
        DataError: a folder is not a run's.
    """
    told = [_told_apart_by(folder) for folder in folders]
    named = set.union(*(set(one) for one in told)) - {"run.name"}
    differing = sorted(name for name in named if len({str(one.get(name)) for one in told}) > 1)
    labels: dict[str, list[Path]] = {}
    for folder, one in zip(folders, told, strict=True):
        parts = [f"{_short(name, differing)}={one.get(name)}" for name in differing]
        label = ", ".join(parts) or str(one["run.name"])
        labels.setdefault(label, []).append(folder)
    return labels


def _short(name: str, names: Sequence[str]) -> str:
    """The last part of a dotted key, where no other of ``names`` ends in it."""
    last = name.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in names) == 1 else name


def _told_apart_by(folder: Path) -> dict[str, Any]:
    try:
        settings = flatten(yaml.safe_load((folder / "config.yaml").read_text()))
        data = json.loads((folder / "provenance.json").read_text())["data"]
    except (OSError, ValueError, KeyError, AttributeError, yaml.YAMLError):
        raise DataError(
            f"a run's folder must hold its config.yaml and provenance.json, but {folder} does not"
        ) from None
    left_out = (where_fields() | {"seed"}) - {"run.name"}
    return {name: value for name, value in settings.items() if name not in left_out} | {"data": data}


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    """The commit of the code that runs, "+changes" if its tree differs; "unknown" outside a checkout."""
    try:
        git = ["git", "-C", str(Path(__file__).parent)]
        sha = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return sha.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """A run's metrics so far, one mapping per logged step."""
    return read_lines(folder / "metrics.jsonl")


STATUS = ("status.json", "history.jsonl")  # written by the command


def hold(place: Mirror, say: Callable[[str], None] = lambda text: None) -> Lease | BucketLease:
    """A lease of a run, wherever it lies; entered, it knows its ``place``, for ``still_held``."""
    return BucketLease(place.uri, say) if place.uri else Lease(place.folder, say)


def still_held(lease: str) -> bool:
    """Whether the process with that lease's ``place`` still holds its run."""
    return bucket_lease.is_newest(lease) if "://" in lease else is_newest(lease)


def begin(place: Mirror, config: Config, content_id: str, about: dict[str, Any], say: Callable[[str], None]) -> None:
    """What ran, for the first start; for a later one, what differs from then, which ``say`` is told."""
    place.fetch()
    folder = place.folder
    (folder / "stop").unlink(missing_ok=True)
    place.remove("stop")
    again = (folder / "provenance.json").exists()
    differences = changes(folder, config) if again else []
    if not again:
        folder.mkdir(parents=True, exist_ok=True)
        write_provenance(folder, config, content_id, about)
    for line in differences:
        say(f"note: {line}")
    write_status(folder, "running", command=sys.argv, commit=commit(), changes=differences)
    place.send("config.yaml", "provenance.json", *STATUS)


@contextmanager
def ending(place: Mirror, steps: int) -> Iterator[None]:
    """Write down how a run ended, whatever the way; it is finished after ``steps``."""
    from paramcrop.storage.checkpoint import newest_checkpoint, steps_done

    try:
        yield
    except KeyboardInterrupt:
        _write(place, "interrupted")
        raise
    except BaseException as error:
        with suppress(OSError):  # a full disk: the error says so already
            _write(place, "failed", error=str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise
    place.fetch()
    newest, _ = newest_checkpoint(place.folder, place.fetch)
    epoch, step = steps_done(newest)
    state = "finished" if step == steps else f"stopped@{epoch}"
    _write(place, state, checkpoint=newest.name if newest else None)


def _write(place: Mirror, state: str, **facts: Any) -> None:
    """The workers have written to the history meanwhile."""
    with suppress(OSError):
        place.fetch("history.jsonl", waits=())
    write_status(place.folder, state, **facts)
    place.send(*STATUS)
