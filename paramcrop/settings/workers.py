"""``train.workers``: a number of training processes, or a range of them such as 2..8."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

RANGE = re.compile(r"(\d+)\.\.(\d+)")


def checked(value: object) -> int | str:
    """A number, or a range as text; a range of one number becomes that number.

    Raises:
        ValueError: it is neither.
    """
    found = RANGE.fullmatch(value.replace(" ", "")) if isinstance(value, str) else None
    fewest, most = (int(found[1]), int(found[2])) if found else (value, value)
    if isinstance(value, str) and value.isdecimal():
        fewest = most = int(value)
    if not isinstance(fewest, int) or not isinstance(most, int) or not 1 <= fewest <= most:
        raise ValueError(f"train.workers must be at least 1, or a range such as 2..8, but is {value!r} (default: 1)")
    return fewest if fewest == most else f"{fewest}..{most}"


Workers = Annotated[int | str, BeforeValidator(checked)]


def bounds(workers: int | str) -> tuple[int, int]:
    """The fewest and the most workers."""
    if isinstance(workers, int):
        return workers, workers
    fewest, _, most = workers.partition("..")
    return int(fewest), int(most)


def dividing(workers: int | str, batch: int) -> tuple[int, ...]:
    """The numbers of workers among these that divide a batch, fewest first."""
    fewest, most = bounds(workers)
    return tuple(n for n in range(fewest, min(most, batch) + 1) if batch % n == 0)
