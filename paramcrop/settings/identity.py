"""A run's id: a hash of the settings that differ from the defaults, the data and the seed."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from paramcrop.settings.config import Config
from paramcrop.settings.digest import short_hash
from paramcrop.settings.unread import is_read

MAPPINGS = ("backbone.kwargs", "policy_kwargs")  # settings whose value is a mapping: one value, not a section
METHOD_VERSION = 2  # raise this when equal settings no longer mean the same computation
# Settings whose default is another since version 1; for a setting that version 1 did not have, what it did then.
DEFAULTS_1: dict[str, Any] = {
    "policies.simple": 0.1,
    "policies.manual": [0.1, 0.6],
    "projector.batch_norm": False,
    "projector.final_batch_norm": False,
    "optim.lr_scale": "views/256",
    "cropper.clip_norm": None,
    "data.decoder": "decord",
}
# Of these, what version 1 did not have.
NEW_SINCE_1 = frozenset({"projector.final_batch_norm", "cropper.clip_norm", "data.decoder"})


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn a nested mapping into {dotted key: value}; the values of ``MAPPINGS`` are not flattened."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        section = isinstance(value, dict) and f"{prefix}{key}" not in MAPPINGS
        flat |= flatten(value, f"{prefix}{key}.") if section else {f"{prefix}{key}": value}
    return flat


def recorded(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings in a run's config.yaml, flat. A run of version 1 did what it did without those that came later."""
    return {key: DEFAULTS_1[key] for key in NEW_SINCE_1} | flatten(settings)


def where_fields(model: type[BaseModel] = Config, prefix: str = "") -> set[str]:
    """Dotted keys of the fields that say where or how fast a run computes, never what it computes."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= where_fields(field.annotation, f"{prefix}{name}.")
        elif isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("where"):
            found.add(prefix + name)
    return found


def identity(config: Config, data: str) -> dict[str, Any]:
    """What a run's id hashes: the settings it reads that differ from the defaults, the data, the seed, and what follows
    from the device: precision, and the workers over which batch norms are local.

    Args:
        config: its ``train.device`` says "cpu" or "cuda". With "auto", ids of both kinds of device are one.
        data: ``Manifest.data_id``.
    """
    default, where = flatten(Config().model_dump(mode="json")), where_fields() | {"train.precision"}
    if not config.cropper.early_stopping:  # is the same as bounds that cut nothing
        bounds = {"early_stopping": True, "lower": 0.0, "upper": 1.0}
        config = config.model_copy(update={"cropper": config.cropper.model_copy(update=bounds)})
    chosen = flatten(config.model_dump(mode="json"))
    changed = {k: v for k, v in chosen.items() if k not in where and v != default[k] and is_read(config, k)}
    facts = {"method_version": METHOD_VERSION, "data": data, "settings": changed, "precision": config.precision}
    return facts | {"norm_workers": config.norm_workers, "seed": config.seed}


def run_id(config: Config, data: str) -> str:
    """12 hex digits; equal for equal computations, wherever they run. See ``identity``."""
    return short_hash(identity(config, data))


def older_id(config: Config, content_id: str) -> str | None:
    """The id that version 1 gave a run with these settings; None: version 1 had no such run.

    It hashed every setting, read or not, and neither precision nor the order of the shards.
    """
    default = flatten(Config().model_dump(mode="json"))
    chosen = flatten(config.model_dump(mode="json"))
    # The same command had the defaults of its time.
    chosen |= {k: v for k, v in DEFAULTS_1.items() if chosen[k] == default[k]}
    default |= DEFAULTS_1
    changed = {k: v for k, v in chosen.items() if k not in where_fields() and v != default[k]}
    if any(key in NEW_SINCE_1 for key in changed):
        return None
    return short_hash({"method_version": 1, "data": content_id, "settings": changed, "seed": config.seed})
