"""The trials of a space: their values, the settings derived from them, and their ids."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from paramcrop.data.manifest import read_manifest
from paramcrop.errors import ConfigError
from paramcrop.evaluation.protocols import Protocol
from paramcrop.settings.config import Config
from paramcrop.settings.digest import short_hash
from paramcrop.settings.explain import show
from paramcrop.settings.identity import flatten, run_id
from paramcrop.settings.presets import load_config, make_config
from paramcrop.sweeps.space import DERIVED, SCALAR, Space
from paramcrop.sweeps.values import EPOCHS, coerced, trial_id

VARIANT = "variant"  # key whose value is a variant's label, in place of the variant's settings
ELEMENT = re.compile(r"(?P<key>[\w.]+)\[(?P<index>\d)\]")


@dataclass(frozen=True)
class Trial:
    """One configuration, pretrained once per seed.

    Attributes:
        values: swept key (or ``VARIANT``) -> value. label: its name in tables. settings: dotted key -> value.
        paper: "DATASET/PROTOCOL METRIC" -> the paper's value, in %.
        tasks: its evaluations; empty: the space's.
    """

    values: dict[str, Any]
    label: str
    settings: dict[str, Any]
    paper: dict[str, float]
    tasks: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """10 hex digits; equal for equal values."""
        return trial_id(self.values)


def grid(space: Space) -> list[dict[str, Any]]:
    """The values of every cell of the grid, in the order of the file; empty for a space that is sampled."""
    if space.search != "grid":
        return []
    if space.variants:
        return [{VARIANT: variant.label} for variant in space.variants]
    keys = list(space.params)
    return [dict(zip(keys, cell, strict=True)) for cell in product(*(space.params[key].listed or () for key in keys))]


def make_trial(space: Space, values: Mapping[str, Any]) -> Trial:
    """The trial with these values, as the grid or the search gives them.

    Raises:
        ConfigError: the space has no such variant.
    """
    if VARIANT in values:
        variant = next((v for v in space.variants if v.label == values[VARIANT]), None)
        if variant is None:
            raise ConfigError(f"a variant must be one of the space's, but is {values[VARIANT]!r}")
        return Trial(dict(values), variant.label, dict(variant.set), dict(variant.paper), variant.tasks)
    label = ", ".join(f"{_short(key, space.params)}={show(rounded(value))}" for key, value in values.items())
    derived = {key: _derive(text, values) for key, text in space.derived.items()}
    return Trial(dict(values), label, {**values, **derived}, {})


def rounded(value: Any) -> Any:
    """The value with four significant digits, for display."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def config_of(space: Space, trial: Trial, seed: int) -> Config:
    """The preset with the space's settings and then the trial's applied.

    Raises:
        ConfigError: one line with the trial and the key.
    """
    flat = flatten(load_config(space.preset).model_dump(mode="json"))
    settings = {**space.set, **trial.settings, "seed": seed}
    try:
        times = space.epochs * _times(settings.pop(EPOCHS, 1))
        flat["train.epochs"] = max(1, round(times * flat["train.epochs"]))
        flat["run.checkpoint_epochs"] = space.proxy.every if space.scheduler != "none" else 1
        for key, value in settings.items():
            _put(flat, key, value)
        config = make_config(flat)
        if config.elastic:
            raise ConfigError(f"a sweep needs one number in train.workers, but it is {config.train.workers}")
        return config
    except ConfigError as error:
        raise ConfigError(f"{trial.label}: {error}") from None


def _times(value: Any) -> float:
    number = coerced(EPOCHS, value)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
        raise ConfigError(f"{EPOCHS} must be a number above 0, a multiple of the preset's, but is {show(value)}")
    return float(number)


def _put(flat: dict[str, Any], key: str, value: Any) -> None:
    """Set ``key``, or one element of it, as in ``cropper.spatial_scale[0]``."""
    if match := ELEMENT.fullmatch(key):
        old, index = flat.get(match["key"]), int(match["index"])
        if not isinstance(old, list) or index >= len(old):
            raise ConfigError(f"{key} is not an element of a list setting; an example is cropper.spatial_scale[0]")
        flat[match["key"]] = [value if i == index else element for i, element in enumerate(old)]
    else:
        flat[key] = list(value) if isinstance(value, tuple) else value


def _derive(text: str, values: Mapping[str, Any]) -> float:
    match = DERIVED.fullmatch(text.strip())
    assert match is not None, "Space has validated it"
    value: float = values[match["key"]]
    return value if match["number"] is None else round(float(match["number"]) - value, 10)


def _short(key: str, keys: Mapping[str, Any]) -> str:
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def encode(value: Any) -> Any:
    """A value in the form that Optuna stores: a list becomes its JSON text."""
    return value if isinstance(value, SCALAR) else json.dumps(value)


def decode(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Undo ``encode`` for every value of a suggestion, in the space's order."""
    texts = {key: {encode(v): v for v in swept.listed or ()} for key, swept in space.params.items()}
    order = [VARIANT] if space.variants else list(space.params)
    return {key: texts.get(key, {}).get(values[key], values[key]) for key in order}


def wanted_of(space: Space, trial: Trial, data_id: str, tasks: Sequence[tuple[str, Protocol]]) -> str:
    """12 hex digits over everything that a trial computes: its runs, their evaluations, and how trials are stopped.

    Args:
        data_id: that of the pretraining videos. tasks: (data id of the dataset, protocol).
    """
    runs = [run_id(config_of(space, trial, seed), data_id) for seed in space.seeds_of(trial.id)]
    evaluations = [(content, protocol.digest) for content, protocol in tasks]
    proxy = space.proxy.model_dump() if space.scheduler != "none" else None
    how = [space.evaluate.splits, space.evaluate.seeds, space.scheduler, proxy]
    return short_hash([runs, evaluations, how], sort_keys=False)


def data_ids(data: dict[str, str]) -> dict[str, str]:
    """The data id of each named dataset."""
    return {name: read_manifest(folder).data_id for name, folder in data.items()}
