"""One-line errors for settings: the key, what its value must be, what it is, and the nearest valid name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from paramcrop.errors import ConfigError

M = TypeVar("M", bound=BaseModel)
SHOWN = 80  # characters of a wrong value
PLAIN = (str, int, float, tuple, type(None))  # defaults that fit in a message


def validated(model: type[M], values: Any, source: str = "", known: Mapping[str, Any] = {}) -> M:
    """Validate ``values`` as a ``model``.

    Args:
        source: the source of the values, such as a file; the message starts with it.
        known: dotted key -> the value that a message shows as the default, where it is not the model's.

    Raises:
        ConfigError: the first error.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}{': ' if source else ''}{explain(error, model, known)}") from None


WORDS = {  # pydantic's kind of an error -> what the value must be
    "tuple": "a list of values",
    "list": "a list",
    "string": "text",
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "dict": "'name: value' lines",
    "model": "'name: value' lines",
    "finite_number": "a finite number",
}
KIND = re.compile(r"(\w+?)(?:_attributes)?_(?:type|parsing|from_float|parsing_size)")


def explain(error: ValidationError, model: type[BaseModel], known: Mapping[str, Any] = {}) -> str:
    """The first error of ``model``, in one line that names the dotted key."""
    first = error.errors(include_url=False)[0]
    key, field, inner = _find(model, first["loc"])
    kind, message = first["type"], str(first["msg"]).removeprefix("Value error, ")
    if kind == "value_error":
        return _own(key, inner, message)
    if kind == "extra_forbidden":
        return f"{key} is not a key{nearest(str(first['loc'][-1]), _fields(inner))}"
    word = WORDS.get(match[1] if (match := KIND.fullmatch(kind)) else kind)
    if kind in ("missing", "too_long") and field is not None and _length(field):
        message = f"must be {_length(field)} values"
    elif kind == "missing":
        return f"{key} must be given"
    elif word is not None:
        message = f"must be {word}"
    if kind == "literal_error" and field is not None:
        listed = choices(field)
        return but(f"{key} must be {'one of ' * (' | ' in listed)}{listed}", field, first["input"], known.get(key))
    return but(f"{key}: " + re.sub(r"^[A-Z]\w* should ", "must ", message), field, first["input"], known.get(key))


def _own(key: str, inner: type[BaseModel] | None, message: str) -> str:
    """The message of one of our validators, with the key; a model's validator names its fields itself."""
    if not key or inner is None:
        return message
    words = re.match(r"\w+", message)
    return f"{key}.{message}" if words and words[0] in _fields(inner) else f"{key}: {message}"


def _find(model: type[BaseModel], place: Sequence[int | str]) -> tuple[str, FieldInfo | None, type[BaseModel] | None]:
    """The place of an error, as pydantic gives it -> (its dotted key, the field, the model of the field's value)."""
    field, inner = None, cast(type[BaseModel] | None, model)
    for part in place:  # a part that is not a field is an index or a key of the field's value, or unknown
        if part in _fields(inner):
            field = _fields(inner)[str(part)]
            inner = _model_in(field.annotation)
    parts = list(place)
    while inner is None and parts and isinstance(parts[-1], int):  # default and choices belong to the list as a whole
        parts.pop()
    return ".".join(map(str, parts)), field, inner


def _fields(model: type[BaseModel] | None) -> dict[str, FieldInfo]:
    """The fields of a model, by the names that files use."""
    return {field.alias or name: field for name, field in model.model_fields.items()} if model else {}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model of a field's value, or of the elements of its list or mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def but(expected: str, field: FieldInfo | None, value: Any, default: Any = None) -> str:
    """Complete ``expected`` with the value and the default: the preset's, or else the field's."""
    if default is not None:
        return f"{but(expected, None, value)} (default of the preset: {show(default)})"
    text = repr(value)
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    known = field is not None and isinstance(field.default, PLAIN) and field.default not in ("", ())
    return f"{expected}, but is {text}{f' (default: {show(field.default)})' if field and known else ''}"


def _length(field: FieldInfo) -> int:
    """The number of values of a tuple; 0: the field is none, or of any length."""
    kinds = [field.annotation, *get_args(field.annotation)]
    own = next((kind for kind in kinds if get_origin(kind) is tuple), None)
    return 0 if own is None or Ellipsis in get_args(own) else len(get_args(own))


def choices(field: FieldInfo) -> str:
    """ "a | b" for a field with fixed choices; "" for any other."""
    if isinstance(field.json_schema_extra, dict) and "names" in field.json_schema_extra:
        return " | ".join(map(str, cast(list[str], field.json_schema_extra["names"])))
    return " | ".join(map(str, _literals(field.annotation)))


def _literals(annotation: Any) -> list[str | int]:
    found: list[str | int] = []
    for part in get_args(annotation):
        found += [part] if isinstance(part, str | int) and not isinstance(part, type) else _literals(part)
    return found


def show(value: Any) -> str:
    """A value in the form in which a user types it after ``key=``."""
    if isinstance(value, tuple | list):
        return f"[{','.join(show(v) for v in value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; the nearest is X" for the end of a message, or "" if no name in ``known`` is similar to ``name``."""
    known = list(known)
    last = {k.rpartition(".")[2]: k for k in known}  # so that `lr` finds `optim.lr`
    close = difflib.get_close_matches(name, known, 1, 0.6)
    close = close or [last[m] for m in difflib.get_close_matches(name.rpartition(".")[2], last, 1, 0.6)]
    return f"; the nearest is {close[0]}" if close else ""
