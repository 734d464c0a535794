"""Short names for values: the beginning of a SHA-256."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def short_hash(value: Any, digits: int = 12, sort_keys: bool = True) -> str:
    """A JSON value -> ``digits`` hex digits, equal for equal values.

    Args:
        sort_keys: whether the order of a mapping's keys is left out of account.
    """
    return text_hash(json.dumps(value, sort_keys=sort_keys), digits)


def text_hash(text: str, digits: int) -> str:
    """A text -> ``digits`` hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
