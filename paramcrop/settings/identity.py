"""A run's id: a hash of the settings that differ from the defaults, the data and the seed."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from paramcrop.settings.config import Config
from paramcrop.settings.digest import short_hash

MAPPINGS = ("backbone.kwargs", "policy_kwargs")  # settings whose value is a mapping: one value, not a section
METHOD_VERSION = 1  # raise this when equal settings no longer mean the same computation


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn a nested mapping into {dotted key: value}; the values of ``MAPPINGS`` are not flattened."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        section = isinstance(value, dict) and f"{prefix}{key}" not in MAPPINGS
        flat |= flatten(value, f"{prefix}{key}.") if section else {f"{prefix}{key}": value}
    return flat


def where_fields(model: type[BaseModel] = Config, prefix: str = "") -> set[str]:
    """Dotted keys of the fields that say where or how fast a run computes, never what it computes."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= where_fields(field.annotation, f"{prefix}{name}.")
        elif isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("where"):
            found.add(prefix + name)
    return found


def identity(config: Config, content_id: str) -> dict[str, Any]:
    """What a run's id hashes: the settings that differ from the defaults, the data, the seed."""
    default, where = flatten(Config().model_dump(mode="json")), where_fields()
    chosen = flatten(config.model_dump(mode="json"))
    changed = {k: v for k, v in chosen.items() if k not in where and v != default[k]}
    return {"method_version": METHOD_VERSION, "data": content_id, "settings": changed, "seed": config.seed}


def run_id(config: Config, content_id: str) -> str:
    """12 hex digits; equal for equal computations, regardless of the machine and the number of workers."""
    return short_hash(identity(config, content_id))
