"""Build a Config from a preset, a file and ``key=value`` texts; list its options; explain its errors in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from paramcrop.errors import ConfigError
from paramcrop.settings.config import Config
from paramcrop.settings.identity import MAPPINGS, flatten


def shipped(folder: str) -> Path:
    """Where ``search_spaces`` or ``cluster`` is: beside the package in a clone, inside it in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    inside = package / folder
    return inside if inside.is_dir() else package.parent / folder


def preset_names() -> list[str]:
    folder = resources.files("paramcrop.settings") / "presets"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_config(preset: str | None = None, file: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Apply the preset, then the file, then the ``key=value`` texts to the defaults; later ones win.

    Raises:
        ConfigError: one line with the dotted key, what was expected, and the nearest valid name.
    """
    values: dict[str, Any] = {}
    if preset is not None:
        values |= flatten(_preset(preset))
    if file is not None:
        values |= _read(Path(file))
    known = [key for key, _ in all_options()]
    values |= dict(parse_override(text, known) for text in overrides)
    return make_config(values)


def make_config(values: Mapping[str, Any]) -> Config:
    """Build a Config from {dotted key: value}; raises ConfigError as ``load_config`` does."""
    options = dict(all_options())
    nested: dict[str, Any] = {}
    for key, value in values.items():
        if not any(key.startswith(f"{mapping}.") for mapping in MAPPINGS):  # an entry of one may be anything
            _check_key(key, value, options)
        _put(nested, key, value)
    try:
        return Config.model_validate(nested)
    except ValidationError as error:
        raise ConfigError(explain(error, options)) from None


def _check_key(key: str, value: Any, options: Mapping[str, FieldInfo]) -> None:
    """Raises:
    ConfigError: it is no setting, or not one that can be true or false.
    """
    if key not in options:
        raise ConfigError(_unknown(key, options))
    if isinstance(value, bool) and bool not in (options[key].annotation, *get_args(options[key].annotation)):
        raise ConfigError(_expectation(key, options[key], "bool", "must not be true or false", value))


def _put(nested: dict[str, Any], key: str, value: Any) -> None:
    section = nested
    *parents, name = key.split(".")
    for parent in parents:
        if not isinstance(section.get(parent), dict):
            section[parent] = {}
        section = section[parent]
    section[name] = deepcopy(value)  # a later key may be an entry of it


def all_options(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting as (dotted key, field), section by section."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from all_options(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def describe_options() -> str:
    """The ``--help`` text: each setting with its default, its choices and its meaning, section by section."""
    lines, section = [], None
    for key, field in all_options():
        parent = key.rpartition(".")[0]
        if parent != section:
            doc = Config.model_fields[parent].annotation.__doc__ if parent else Config.__doc__
            lines += ["", f"{parent or 'top level'}: {doc}"]
            section = parent
        choices = _choices(field)
        lines.append(f"  {key}={show(field.default)}{f' ({choices})' if choices else ''}")
        lines.append(f"      {field.description}")
    return "\n".join(lines).lstrip()


def show(value: Any) -> str:
    """A value in the form in which a user types it after ``key=``."""
    if isinstance(value, tuple | list):
        return f"[{','.join(show(v) for v in value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"


def _choices(field: FieldInfo) -> str:
    if isinstance(field.json_schema_extra, dict) and "names" in field.json_schema_extra:
        return " | ".join(map(str, cast(list[str], field.json_schema_extra["names"])))
    values = [a for a in get_args(field.annotation) if isinstance(a, str | int) and not isinstance(a, type)]
    return " | ".join(str(v) for v in values)


def _preset(name: str) -> dict[str, Any]:
    if name not in preset_names():
        raise ConfigError(
            f"--preset must be one of {', '.join(preset_names())}, but is {name!r}{nearest(name, preset_names())}"
        )
    text = (resources.files("paramcrop.settings") / "presets" / f"{name}.yaml").read_text()
    values: dict[str, Any] = yaml.safe_load(text) or {}
    return values


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"--config must be a readable file: {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config must be YAML: {path}: {' '.join(str(error).split())}") from None
    if not isinstance(values or {}, dict):
        raise ConfigError(f"--config must contain 'key: value' lines, but {path} contains a {type(values).__name__}")
    return flatten(values or {})


def parse_override(text: str, known: Iterable[str]) -> tuple[str, Any]:
    """Split ``key=value`` and parse the value as YAML.

    Raises:
        ConfigError: the text has no "=".
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"an override must be key=value, but is {text!r}{nearest(key, known)}")
    try:
        return key, yaml.safe_load(value) if value else ""
    except yaml.YAMLError:
        return key, value


def _unknown(key: str, options: Mapping[str, FieldInfo]) -> str:
    inside = [k for k in options if k.startswith(f"{key}.")]
    if inside:
        return f"{key} is a section, not a setting; set one of {', '.join(inside)}"
    return f"{key} is not a setting{nearest(key, options)}; --help lists all"


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; the nearest is X" for the end of a message, or "" if no name in ``known`` is similar to ``name``."""
    known = list(known)
    last = {k.rpartition(".")[2]: k for k in known}  # so that `lr` finds `optim.lr`
    close = difflib.get_close_matches(name, known, 1, 0.6)
    close = close or [last[m] for m in difflib.get_close_matches(name.rpartition(".")[2], last, 1, 0.6)]
    return f"; the nearest is {close[0]}" if close else ""


def explain(error: ValidationError, options: Mapping[str, FieldInfo]) -> str:
    """A model's first error, in one line that names the key."""
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    key = next((k for k in options if path == k or path.startswith(f"{k}.")), path)
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "value_error":  # from our own validators, whose messages name the fields and values
        return f"{key}.{message}" if key and key not in options else message
    return _expectation(key, options[key], first["type"], message, first["input"])


def _expectation(key: str, field: FieldInfo, kind: str, message: str, value: Any) -> str:
    if kind == "literal_error":
        expected = f"{key} must be one of {_choices(field)}"
    elif kind == "missing":
        expected = f"{key}: must be {len(get_args(field.annotation))} values"
    else:
        expected = f"{key}: " + re.sub(r"^[A-Z]\w* should ", "must ", message)
    return f"{expected}, but is {value!r} (default: {show(field.default)})"
