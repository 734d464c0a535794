"""Evaluation results: one file each, and their rows in a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paramcrop.errors import DataError
from paramcrop.storage.files import atomic_write
from paramcrop.storage.jsonl import append_line

SHOWN = ("video@1", "class mean", "clip@1", "R@1", "R@5", "R@20")  # in tables; result files have all metrics


def write_result(file: Path, result: Mapping[str, Any]) -> None:
    """Write a result atomically, and append its rows to the results.jsonl of its run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        text = json.dumps(result, allow_nan=False)
    except ValueError:
        names = [row["metric"] for row in result["rows"] if not math.isfinite(row["value"])] or ["one of its facts"]
        raise DataError(f"every number of a result must be finite, but {names[0]} is not") from None
    with atomic_write(file) as part:
        part.write_text(text)
    append_rows(file.parent.parent / "results.jsonl", result)


def append_rows(file: Path, result: Mapping[str, Any]) -> None:
    """Append one line for each metric of a result."""
    keys = ("eval_id", "subject", "dataset", "content_id", "splits", "protocol", "version", "seed", "pretraining_seed")
    for row in result["rows"]:
        append_line(file, {name: result[name] for name in (*keys, "commit")} | row)


def read_result(file: Path) -> dict[str, Any] | None:
    """Read a result; None if the file is missing, damaged, or not a result."""
    try:
        result = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and "rows" in result else None


def shown_metrics(result: Mapping[str, Any]) -> list[str]:
    """The metrics of ``SHOWN`` that the result has; the first is its main metric."""
    had = {row["metric"] for row in result["rows"]}
    return [metric for metric in SHOWN if metric in had]
