"""Results as a reader sees them: in %, with their errors, and what must be known to compare them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from paramcrop.evaluation.results import Difference, Mean

SPREAD = "± 95 % over pretraining seeds (from three on)"
ERRORS = f"in %, {SPREAD}, [standard error that the test set's size alone gives]"
PAIRED = "paired by video, ± 95 % over videos"


def show_mean(mean: Mean) -> str:
    """Value with its interval, or the seeds' values; the test set's own error: "59.9 ± 1.2 [2.1]"."""
    value = f"{100 * mean.value:.1f}"
    if mean.half is not None:
        value += f" ± {100 * mean.half:.1f}"
    elif len(mean.values) > 1:
        value += f" ({', '.join(f'{100 * v:.1f}' for v in mean.values)})"
    return f"{value} [{100 * mean.test_error:.1f}]"


def show_difference(difference: Difference) -> str:
    """ "+1.2 ± 0.8", or "+0.3 ± 1.1: not resolved" where the interval covers 0."""
    half = "" if difference.half is None else f" ± {100 * difference.half:.1f}"
    return f"{100 * difference.value:+.1f}{half}{'' if difference.resolved else ': not resolved'}"


def notes(results: Iterable[tuple[Mapping[str, Any], str | None]]) -> list[str]:
    """What a reader must know to compare.

    Args:
        results: each with the split that its run was pretrained on, of the set that it was pretrained on.
    """
    results, lines = list(results), []
    of_runs = [(result, split) for result, split in results if result["subject"] == "run"]
    if seen := {split for result, split in of_runs if result["pretraining_data"] == result["content_id"]}:
        told = ", ".join(sorted(split or "all videos" for split in seen))
        lines.append(f"note: the run was pretrained, without labels, on this same set ({told})")
    if any(result["protocol"] != result["numbers"]["name"] for result, _ in results):
        lines.append("note: numbers in brackets differ from the named protocol's: not comparable with the paper's")
    for dataset, classes in {result["dataset"]: len(result["classes"]) for result, _ in results}.items():
        lines.append(
            f"note: {dataset} has {classes} classes: by chance, the first guess is right in {100 / classes:.1f} %"
        )
    return lines
