"""Markdown from fields and rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic.fields import FieldInfo

LIMITS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def meaning(field: FieldInfo, mark: str = "") -> str:
    """A field's description, then ``mark``, then its choices or limits on a line of their own."""
    described = f"{field.description or ''}{mark}"
    return "<br>".join(filter(None, (described, limits(field))))


def limits(field: FieldInfo) -> str:
    """The choices of a field, or between which numbers it lies; empty if neither."""
    extra = field.json_schema_extra
    names: Any = extra.get("names", []) if isinstance(extra, dict) else []
    choices = [a for a in (*get_args(field.annotation), *names) if isinstance(a, str | int) and not isinstance(a, type)]
    if choices:
        return "one of " + ", ".join(f"`{choice}`" for choice in choices)
    found = [
        text.format(getattr(bound, name))
        for bound in field.metadata
        for name, text in LIMITS.items()
        if getattr(bound, name, None) is not None
    ]
    return ", ".join(found)
