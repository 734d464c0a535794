"""Build a Config from a preset, a file and ``key=value`` texts; list its options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from paramcrop.errors import ConfigError
from paramcrop.settings.config import Config
from paramcrop.settings.explain import but, choices, nearest, show, validated
from paramcrop.settings.identity import MAPPINGS, flatten
from paramcrop.settings.yaml_text import read_yaml


def shipped(folder: str) -> Path:
    """The folder ``search_spaces`` or ``cluster``: next to the package in a clone, inside it in an installed wheel."""
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
    own = flatten(_preset(preset)) if preset is not None else {}
    values = dict(own)
    if file is not None:
        values |= flatten(read_mapping(Path(file), "--config"))
    known = [key for key, _ in all_options()]
    values |= dict(parse_override(text, known) for text in overrides)
    return make_config(values, own)


def make_config(values: Mapping[str, Any], preset: Mapping[str, Any] = {}) -> Config:
    """Build a Config from {dotted key: value}; raises ConfigError as ``load_config`` does.

    Args:
        preset: the values of the preset, which messages show as defaults.
    """
    options = dict(all_options())
    nested: dict[str, Any] = {}
    for key, value in values.items():
        if not any(key.startswith(f"{mapping}.") for mapping in MAPPINGS):  # entries of a mapping have any name
            _check_key(key, value, options)
        _put(nested, key, value)
    return validated(Config, nested, known=preset)


def _check_key(key: str, value: Any, options: Mapping[str, FieldInfo]) -> None:
    """Check that ``key`` is a setting, and that the setting accepts true or false if ``value`` is one of them.

    Raises:
        ConfigError: it is not, or does not.
    """
    if key not in options:
        raise ConfigError(_unknown(key, options))
    if isinstance(value, bool) and bool not in (options[key].annotation, *get_args(options[key].annotation)):
        raise ConfigError(but(f"{key}: must not be true or false", options[key], value))


def _put(nested: dict[str, Any], key: str, value: Any) -> None:
    section = nested
    *parents, name = key.split(".")
    for parent in parents:
        if not isinstance(section.get(parent), dict):
            section[parent] = {}
        section = section[parent]
    section[name] = deepcopy(value)  # because a later key may change an entry of it


def all_options(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting as (dotted key, field), section by section."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from all_options(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def describe_options(preset: str | None = None) -> str:
    """The ``--help`` text: each setting with its default, its choices and its meaning, section by section.

    Args:
        preset: whose values are shown where it has one, besides the default.
    """
    lines, section = [], None
    own = flatten(_preset(preset)) if preset in preset_names() and preset is not None else {}
    for key, field in all_options():
        parent = key.rpartition(".")[0]
        if parent != section:
            doc = Config.model_fields[parent].annotation.__doc__ if parent else Config.__doc__
            lines += ["", f"{parent or 'top level'}: {doc}"]
            section = parent
        known = choices(field)
        shown = f"{show(own[key])} (default {show(field.default)})" if key in own else show(field.default)
        lines.append(f"  {key}={shown}{f' ({known})' if known else ''}")
        lines.append(f"      {field.description}")
    return "\n".join(lines).lstrip()


def _preset(name: str) -> dict[str, Any]:
    if name not in preset_names():
        raise ConfigError(
            f"--preset must be one of {', '.join(preset_names())}, but is {name!r}{nearest(name, preset_names())}"
        )
    text = (resources.files("paramcrop.settings") / "presets" / f"{name}.yaml").read_text()
    values: dict[str, Any] = yaml.safe_load(text) or {}
    return values


def read_mapping(path: Path, name: str) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Args:
        name: what messages call the file, such as "--config".

    Raises:
        ConfigError: the file cannot be read, does not contain a mapping, or repeats a key.
    """
    try:
        values = read_yaml(path.read_text())
    except OSError as error:
        raise ConfigError(f"{name} must be a readable file: {path}: {error.strerror}") from None
    except ConfigError as error:
        raise ConfigError(f"{name} must have every key once, but in {path} {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} must be YAML: {path}: {' '.join(str(error).split())}") from None
    if not isinstance(values or {}, dict):
        raise ConfigError(f"{name} must contain 'key: value' lines, but {path} contains a {type(values).__name__}")
    return values or {}


def parse_override(text: str, known: Iterable[str]) -> tuple[str, Any]:
    """Split ``key=value`` and parse the value as YAML.

    Raises:
        ConfigError: the text has no "=", or its value repeats a key.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"an override must be key=value, but is {text!r}{nearest(key, known)}")
    try:
        read = read_yaml(value) if value else ""
        comment = "#" in value and value[0] not in "\"'" and (read is None or isinstance(read, str))
        return key, value if comment else read  # on a command line, # is a character of a path
    except ConfigError as error:
        raise ConfigError(f"{key}: every key must be given once, but {error}") from None
    except yaml.YAMLError:
        return key, value


def _unknown(key: str, options: Mapping[str, FieldInfo]) -> str:
    inside = [k for k in options if k.startswith(f"{key}.")]
    if inside:
        return f"{key} is a section, not a setting; set one of {', '.join(inside)}"
    return f"{key} is not a setting{nearest(key, options)}; --help lists all"
