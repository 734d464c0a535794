"""A sweep's question read from a YAML file, and asked with another preset. Imports no torch.

An unknown key, a wrong type or two things that cannot go together are one line that names the key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from paramcrop.errors import ConfigError
from paramcrop.settings.presets import nearest, preset_names
from paramcrop.sweeps.space import Differs, Space

FOLDER = Path(__file__).resolve().parents[2] / "search_spaces"


def find_space(name: str, also: Iterable[str] = ()) -> Path:
    """A path, or the name of a shipped one.

    Args:
        also: other names that would have been right, for the error.

    Raises:
        ConfigError: neither.
    """
    for path in (Path(name).expanduser(), FOLDER / f"{name}.yaml"):
        if path.is_file():
            return path.resolve()
    known = sorted({*also, *(path.stem for path in FOLDER.glob("*.yaml"))})
    told = f"a file, or one of {', '.join(known)}" if known else "a file"
    raise ConfigError(f"--space must be {told}, but is {name!r}{nearest(name, known)}")


def read_space(path: Path) -> Space:
    """Raises:
    ConfigError: one line that names the file and the key.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"a space must be a readable file: {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"a space must be YAML: {path}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"a space must hold 'key: value' lines, but {path} holds a {type(values).__name__}")
    return _validated(values, path.name)


def space_at(
    space: Space,
    preset: str | None = None,
    changes: dict[str, Any] | None = None,
    tasks: Sequence[str] | None = None,
    **fields: Any,
) -> Space:
    """The same question with a preset (and what differs with it), fixed settings, tasks, fields; None ones stay.

    Raises:
        ConfigError: it no longer fits together.
    """
    preset = preset or space.preset
    differs = space.with_preset.get(preset, Differs())
    evaluate = differs.evaluate or space.evaluate
    values = space.model_dump(exclude_none=True) | {"preset": preset, "with_preset": {}}
    values["set"] = space.set | differs.set | (changes or {})
    values["seeds"] = differs.seeds or space.seeds
    values["epochs"] = space.epochs * differs.epochs
    values["evaluate"] = evaluate.model_dump() | ({"tasks": tasks} if tasks else {})
    if tasks:
        values["variants"] = [variant | {"tasks": ()} for variant in values["variants"]]
    return _validated(values | {k: v for k, v in fields.items() if v is not None}, "the space")


def _validated(values: dict[str, Any], name: str) -> Space:
    try:
        space = Space.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{name}: {_explain(error)}") from None
    for preset in (space.preset, *space.with_preset):
        if preset not in preset_names():
            told = f"one of {', '.join(preset_names())}, but is {preset!r}{nearest(preset, preset_names())}"
            raise ConfigError(f"{name}: preset must be {told}")
    return space


def _explain(error: ValidationError) -> str:
    """The first error in one line."""
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{path} is not a key{nearest(str(first['loc'][-1]), _keys(first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"{path} must be given"
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path} {re.sub(r'^[A-Z][a-z]* should ', 'must ', message)}, but is {first['input']!r}"


def _keys(path: Iterable[Any]) -> list[str]:
    """The keys of the model at ``path``."""
    model: Any = Space
    for part in path:
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or part not in model.model_fields:
            continue
        annotation = model.model_fields[part].annotation
        inside = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        model = inside[0] if inside else model
    return list(model.model_fields)
