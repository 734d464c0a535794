"""Evaluation protocols with all their parameters."""

from __future__ import annotations

from paramcrop.evaluation.protocols import PROTOCOLS, SHORT, Protocol, parameters
from paramcrop.settings.explain import show
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
    """Kind by kind: its protocols and what differs between them, then the parameters of the first one."""
    text = """# Evaluation protocols

A protocol has a name, a version and parameters. `--set epochs=50` changes a parameter in every task that has it, and
the name then says so: `paper-linear[epochs=50]`.
"""
    for kind, what in KINDS.items():
        first, *others = [protocol for protocol in PROTOCOLS.values() if protocol.kind == kind]
        listed = "".join(f"- {_name(other)}: {_differences(other, first)}\n" for other in others)
        text += f"\n## {kind}\n\n{what}\n\n- {_name(first)}\n{listed}\n{_parameters(first)}"
    return text


def _parameters(protocol: Protocol) -> str:
    fields = ((name, Protocol.model_fields[name]) for name in parameters(protocol))
    rows = [[f"`{name}`", f"`{show(getattr(protocol, name))}`", meaning(field)] for name, field in fields]
    return table(["Parameter", "Value", "Meaning"], rows)


def _name(protocol: Protocol) -> str:
    short = "".join(f", short `{name}`" for name, full in SHORT.items() if full == protocol.name)
    return f"`{protocol.name}`{short}, version {protocol.version}"


def _differences(protocol: Protocol, first: Protocol) -> str:
    values = ((name, getattr(protocol, name)) for name in parameters(protocol))
    changed = [f"`{name}={show(value)}`" for name, value in values if value != getattr(first, name)]
    return f"{', '.join(changed)}; otherwise as `{first.name}`"
