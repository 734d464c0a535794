"""Short hashes of values: the first digits of their SHA-256."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def short_hash(value: Any, digits: int = 12, sort_keys: bool = True) -> str:
    """Hash a JSON value to ``digits`` hex digits, equal for equal values.

    Args:
        sort_keys: whether to ignore the order of a mapping's keys.
    """
    return text_hash(json.dumps(value, sort_keys=sort_keys), digits)


def text_hash(text: str, digits: int) -> str:
    """Hash a text to ``digits`` hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
