"""Swept values: numbers that a file gives as text become numbers, and every value stands once. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from paramcrop.settings.digest import short_hash
from paramcrop.settings.explain import show
from paramcrop.settings.presets import all_options

EPOCHS = "epochs"  # key of the setting that multiplies the preset's epochs


def coerced(key: str, value: Any) -> Any:
    """The value in the setting's type if it is a text, or a list with texts; YAML reads 1e-1 as a text.

    A value that the setting does not accept is returned as it is: building the settings reports it.
    """
    adapter = _type_of(key)
    texts = isinstance(value, str) or (isinstance(value, list | tuple) and any(isinstance(v, str) for v in value))
    if adapter is None or not texts:
        return value
    try:
        found = adapter.validate_python(value)
    except ValidationError:
        return value
    return list(found) if isinstance(found, tuple) else found


def takes_fractions(key: str) -> bool:
    """Whether the setting accepts a number such as 1.5; true for an unknown one."""
    adapter = _type_of(key)
    try:
        return adapter is None or adapter.validate_python(1.5) == 1.5
    except ValidationError:
        return False


@cache
def _type_of(key: str) -> TypeAdapter[Any] | None:
    """The type of a setting, or of one element of it, as in ``cropper.spatial_scale[0]``; None for an unknown one."""
    name, _, element = key.partition("[")
    if name == EPOCHS:
        return TypeAdapter(float)
    annotation: Any = next((field.annotation for known, field in all_options() if known == name), None)
    if element:
        inner, index = get_args(annotation), element.rstrip("]")
        annotation = inner[int(index)] if index.isdecimal() and int(index) < len(inner) else None
    return None if annotation is None else TypeAdapter(annotation)


def check_values(key: str, values: tuple[Any, ...]) -> None:
    """Raises:
    ValueError: a number is not finite, or a value stands twice; 1 and 1.0 are the same.
    """
    seen = set[str]()
    for value in values:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"params.{key} must have finite numbers, but has {value}")
        if (plain := plain_id(value)) in seen:
            raise ValueError(f"params.{key} must have every value once, but has {show(value)} twice")
        seen.add(plain)


def plain_id(value: Any) -> str:
    """A text that is equal for equal values, whatever their type of number."""
    return json.dumps(_plain(value), sort_keys=True)


def trial_id(values: Mapping[str, Any]) -> str:
    """10 hex digits; equal for equal values."""
    return short_hash({key: _plain(value) for key, value in values.items()}, 10)


def is_number(value: Any) -> bool:
    """Whether it is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    return float(value) if is_number(value) else value
