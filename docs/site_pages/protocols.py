"""Evaluation protocols, with all their numbers."""

from __future__ import annotations

from collections.abc import Sequence

from paramcrop.evaluation.protocols import INPUT, PROTOCOLS, SHORT, USED, Protocol, numbers
from paramcrop.settings.presets import show
from site_pages.markdown import meaning, table

KINDS = {  # what a protocol of each kind does
    "finetune": "Trains a linear head, and with `train=all` the network under it, on the labelled training videos.",
    "heads": "Trains many linear heads on kept features and picks the best one on held-out training videos.",
    "retrieval": "Ranks the training videos by cosine for each test video; R@k counts a hit among the first k.",
    "knn": "Lets the nearest training videos vote on the class of each test video.",
    "validation": "Retrieval among training videos alone, to choose settings by: no test video takes part.",
    "classifier": "Tests the classifier that a run of `method=mean_teacher` has learned, as it is.",
}


def protocols_page() -> str:
    """Each protocol with the numbers that its kind uses, then what the numbers mean."""
    text = """# Evaluation protocols

A protocol has a name, a version and all its numbers. `--set epochs=50` changes a number in every task that has it, and
the name then says so: `paper-linear[epochs=50]`. A number in bold differs from that of the first protocol of its kind.
"""
    short = {full: f"<br>short: `{name}`" for name, full in SHORT.items()}
    for kind, what in KINDS.items():
        mine = [protocol for protocol in PROTOCOLS.values() if protocol.kind == kind]
        head = ["", *(f"`{protocol.name}`{short.get(protocol.name, '')}" for protocol in mine)]
        rows = [[f"`{name}`", *_compared(name, mine)] for name in ("version", *numbers(mine[0]))]
        text += f"\n## {kind}\n\n{what}\n\n" + table(head, rows)
    rows = [[f"`{n}`", ", ".join(_users(n)), meaning(f)] for n, f in Protocol.model_fields.items() if f.description]
    return text + "\n## What the numbers mean\n\n" + table(["Number", "Kinds", "Meaning"], rows)


def _compared(name: str, protocols: Sequence[Protocol]) -> list[str]:
    values = [show(getattr(protocol, name)) for protocol in protocols]
    return [value if value == values[0] else f"**{value}**" for value in values]


def _users(name: str) -> list[str]:
    return ["all"] if name in INPUT else [kind for kind, used in USED.items() if name in used]
