"""A run's folder: its name, what says which run it is, and reading back what it recorded. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from paramcrop.config import Config, identity, run_id
from paramcrop.errors import ConfigError

PACKAGES = ("paramcrop", "torch", "torchvision", "ray", "numpy", "pyarrow", "decord", "av", "pydantic")


def home() -> Path:
    """Where data that is made up and runs go unless a setting says otherwise: $PARAMCROP_HOME or ~/paramcrop."""
    return Path(os.environ.get("PARAMCROP_HOME", "~/paramcrop")).expanduser().resolve()


def new_run_folder(config: Config, content_id: str) -> Path:
    """The path of a folder for this run that does not exist yet: storage/name-id, then name-id-2, ...

    Raises:
        ConfigError: ``run.storage`` is not a folder that can be written to.
    """
    storage = home() / "runs" if config.run.storage is None else Path(config.run.storage).expanduser().resolve()
    if "://" in (config.run.storage or ""):
        raise ConfigError(f"run.storage must be a folder that all nodes share, but is the URI {config.run.storage!r}")
    name = f"{config.run.name}-{run_id(config, content_id)}"
    try:
        storage.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            folder = storage / (name if number == 1 else f"{name}-{number}")
            with contextlib.suppress(FileExistsError):  # also if another process made it just now
                folder.mkdir()
                return folder
    except OSError as error:
        raise ConfigError(f"run.storage must be a folder that can be written to: {storage}: {error.strerror}") from None
    raise ConfigError(f"run.storage holds 9999 runs named {name}; name another folder")


def write_provenance(folder: Path, config: Config, content_id: str) -> None:
    """The resolved settings, the identity they give, the commit and the versions that ran."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    facts = {"run_id": run_id(config, content_id)} | identity(config, content_id)
    facts |= {"command": sys.argv, "commit": commit(), "python": sys.version.split()[0], "versions": versions()}
    (folder / "provenance.json").write_text(json.dumps(facts, indent=1))


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


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a JSON-lines file, also while it is written; none if it is not there yet."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """A run's metrics so far, one mapping per logged step."""
    return read_lines(folder / "metrics.jsonl")
