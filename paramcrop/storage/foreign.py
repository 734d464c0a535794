"""Checkpoints of other programs: find the tensors in a file without running any code from it."""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from paramcrop.errors import CheckpointError

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model")  # keys under which programs keep the network
SHOWN = 3  # maximum number of names in an error
GLOBAL = re.compile(r"Unsupported global: GLOBAL ([\w.]+)")


def foreign_state(file: Path, prefixes: Mapping[str, str], wanted: Sequence[str] = ()) -> dict[str, Tensor]:
    """Load the tensors of a network by name, and rename them by ``prefixes`` (old -> new).

    The network is the file itself, what it has under one of ``WRAPPERS``, or its only mapping of names to tensors.
    Where a file has several, the names start with their keys, and ``prefixes`` chooses one.

    Args:
        wanted: names that the network should have; the error then suggests one of several that has them.

    Raises:
        CheckpointError: the file cannot be read without running code, or has no tensors, or several networks.
    """
    loaded = _load(file)
    while key := next((key for key in WRAPPERS if _is_mapping(loaded) and networks_in(loaded.get(key))), None):
        loaded = loaded[key]
    found = networks_in(loaded)
    if not found:
        raise CheckpointError(
            f"weights must be a mapping from names to tensors, but {file} contains {_content(loaded)}"
        )
    if len(found) == 1:
        return rename(next(iter(found.values())), prefixes)
    dotted = {f"{path}.{name}": value for path, own in found.items() for name, value in own.items()}
    if "" not in prefixes and (chosen := rename(dotted, prefixes)):
        return chosen
    several = ", ".join(f"{path} ({len(own)} tensors)" for path, own in found.items())
    suggested = fitting_prefix(dotted, wanted) or f"{next(iter(found))}."
    raise CheckpointError(
        f"weights must be those of one network, but {file} has several: {several}; choose one, as in "
        f"--prefix {suggested}="
    )


def networks_in(value: Any, path: str = "") -> dict[str, dict[str, Tensor]]:
    """Dotted key -> its mapping of names to tensors, wherever ``value`` has one; "" for ``value`` itself."""
    if not _is_mapping(value):
        return {}
    if tensors := {name: each for name, each in value.items() if isinstance(name, str) and isinstance(each, Tensor)}:
        return {path: tensors}
    inside = ((f"{path}.{key}" if path else key, each) for key, each in value.items() if isinstance(key, str))
    return {own: tensors for key, each in inside for own, tensors in networks_in(each, key).items()}


def rename(state: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """Select the entries whose names start with one of ``prefixes``, and replace that prefix (old -> new)."""
    renamed = {}
    for name, value in state.items():
        for old, new in prefixes.items():
            if name.startswith(old):
                renamed[new + name.removeprefix(old)] = value
                break
    return renamed


def fitting_prefix(state: Mapping[str, Any], names: Sequence[str]) -> str:
    """The prefix that ``state`` has before every one of ``names``; empty: there is none."""
    starts = [name.removesuffix(names[0]) for name in state if name.endswith(names[0])] if names else []
    return next((start for start in starts if start and all(start + name in state for name in names)), "")


def _load(file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if objects := _objects(file, str(error)):
            raise CheckpointError(
                f"weights must be a file of tensors and plain values, but {file} also has {objects}; if you trust it, "
                "read it with torch.load(FILE, weights_only=False) and torch.save its tensors alone"
            ) from None
        raise _unreadable(file, error) from None
    except (OSError, RuntimeError, EOFError, ValueError, SafetensorError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
    return CheckpointError(f"weights must be a file of tensors that torch can load: {file}: {reason}")


def _objects(file: Path, message: str) -> str:
    """The objects in a file that torch does not load without running code: "best_acc (numpy.float64)"."""
    try:
        kinds = set(torch.serialization.get_unsafe_globals_in_checkpoint(str(file)))
        with zipfile.ZipFile(file) as archive:
            pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    except (ValueError, OSError, RuntimeError, StopIteration, zipfile.BadZipFile):  # torch's format before 1.6
        return ", ".join(GLOBAL.findall(message))
    named, key = dict[str, str](), ""
    for code, argument, _ in pickletools.genops(pickled):
        if "UNICODE" in code.name:
            key = str(argument)
        elif code.name == "GLOBAL" and (kind := str(argument).replace(" ", ".")) in kinds - {"numpy.dtype"}:
            named.setdefault(key, kind)  # a dtype is a part of some array or number
    texts = [f"{key} ({kind})" if key else kind for key, kind in named.items()] or sorted(kinds)
    return ", ".join(texts[:SHOWN]) + (f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else "")


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _content(loaded: Any) -> str:
    """What a file has instead of tensors: "the keys epoch, cfg", "a list"."""
    if isinstance(loaded, Mapping):
        return f"only {', '.join(map(str, loaded))}" if loaded else "an empty mapping"
    return f"a {type(loaded).__name__}"
