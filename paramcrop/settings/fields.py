"""How a setting is declared: its default, its help text, its limits and the names it may have."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field
from pydantic_core import PydanticKnownError

from paramcrop.settings.custom import FORM, NAME, is_custom

STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def option(default: Any, text: str, *, where: bool = False, **limits: Any) -> Any:
    """A field with its help text; ``where`` marks one that says where or how fast, never what, is computed."""
    return Field(default=default, description=text, json_schema_extra={"where": where}, **limits)


def named(default: str, text: str, names: tuple[str, ...]) -> Any:
    """A field whose value is one of ``names``, or ``module:Class``; ``check_name`` checks it."""
    return Field(default=default, description=text, json_schema_extra={"names": [*names, FORM]})


def check_name(name: str, names: tuple[str, ...]) -> str:
    """Raises:
    PydanticKnownError: it is neither one of ``names`` nor of the form ``module:Class``.
    """
    if name not in names and not NAME.fullmatch(name):
        raise PydanticKnownError("literal_error", {"expected": " | ".join([*names, FORM])})
    return name


def check_kwargs(setting: str, name: str, kwargs: dict[str, Any], prefix: str) -> None:
    """Raises:
    ValueError: a built-in class is given keyword arguments, which only a class of the user's own takes.
    """
    if kwargs and not is_custom(name):
        raise ValueError(f"{prefix}kwargs needs {setting}={FORM}, a class of your own, but {setting} is {name}")


def share(default: float, text: str) -> Any:
    """A field in [0, 1]."""
    return option(default, text, ge=0, le=1)
