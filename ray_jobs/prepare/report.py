"""The texts that `paramcrop prepare` prints before and after its work."""

from __future__ import annotations

import os
import shlex
from collections import Counter

from rich.console import Console
from rich.table import Table

from paramcrop.data.manifest import Manifest
from paramcrop.data.prepare.datasets import Dataset
from paramcrop.data.prepare.plan import Plan
from paramcrop.data.prepare.transcode import Estimate
from ray_jobs.terminal import clock

# What a manifest says of sources, in words
TREATMENTS = {
    "turned": "turned upright",
    "squeezed": "pixels made square",
    "range": "full range made limited",
    "matrix": "colours of another matrix",
    "stream": "best stream of several",
    "lost": "frames lost or damaged",
    "rate": "frame rate varies",
}
SHOWN = 5  # rejected files to print; the manifest has all of them


def describe_plan(plan: Plan, dataset: Dataset) -> str:
    unlisted = dataset.unlisted
    lines = [f"{len(plan.sources)} videos ({size(plan.bytes)}), {len(plan.classes)} classes, {len(plan.pieces)} shards"]
    lines.append("splits: " + (", ".join(f"{name} {count}" for name, count in plan.splits.items()) or "none"))
    if plan.missing:
        lines.append(f"{len(plan.missing)} listed videos are missing; the first: {plan.missing[0].path}")
    unlabelled = sum(label < 0 for piece in plan.pieces for label in piece.labels)
    if plan.classes and unlabelled:
        lines.append(f"warning: {unlabelled} videos have no class: they can be pretrained on, but not evaluated on")
    if unlisted:
        lines.append(f"{unlisted} video files are not in any list and are left out")
    if plan.unreadable:
        count = len(plan.unreadable)
        lines.append(
            f"warning: rows of the lists that cannot be read are left out: {count}, such as {plan.unreadable[0]}"
        )
    lines += [f"warning: {text}" for text in dataset.warnings]
    return "\n".join(lines)


def describe_estimate(estimate: Estimate, share: float) -> str:
    """The estimate as text; ``share`` is the share of the videos that remain."""
    if not estimate.videos:
        return "estimate: none, because no video of the sample could be read"
    cores = os.cpu_count() or 1
    seconds = estimate.seconds * share / cores
    return (
        f"estimate from {estimate.videos} videos: {size(estimate.bytes)} of shards, "
        f"{clock(seconds)} on {cores} cores like this machine's"
    )


def print_summary(manifest: Manifest, out: str, seconds: float, made: int, console: Console) -> None:
    """Print a table, the first rejected files, and the next command.

    Args:
        made: number of videos that this attempt processed.
    """
    table = Table(show_header=False)
    table.add_row("videos", str(manifest.videos))
    for reason, count in Counter(row["reason"].partition("\n")[0] for row in manifest.rejected).most_common():
        table.add_row("rejected", f"{count}: {reason}")
    table.add_row("warnings", str(len(manifest.warnings)))
    for what, count in treated(manifest).items():
        table.add_row(what, str(count))
    table.add_row("size", size(sum(shard.bytes for shard in manifest.shards)))
    table.add_row("time", f"{seconds:.1f} s, {made / max(seconds, 1e-9):.3g} videos/s")
    table.add_row("content id", manifest.content_id)
    console.print(table)
    rejected = [f"{row['path']}: {row['reason']}".replace("\n", ": ") for row in manifest.rejected]
    print_first("rejected", rejected, console)
    print_first("warning", [f"{row['path']}: {row['text']}" for row in manifest.warnings], console)
    split = next((f" {shlex.quote(f'data.split={name}')}" for name in manifest.splits if name.startswith("train")), "")
    shards = shlex.quote(f"data.shards={out}")
    command = f"paramcrop pretrain {shards}{split if len(manifest.splits) > 1 else ''}"
    console.print(f"pretrain with it: {command}", highlight=False, markup=False)


def treated(manifest: Manifest) -> dict[str, int]:
    """What was done to sources, in words -> the number of them."""
    return {text: count for what, text in TREATMENTS.items() if (count := sum(what in t for t in manifest.treatments))}


def print_first(title: str, lines: list[str], console: Console) -> None:
    for line in lines[:SHOWN]:
        console.print(f"  {title}: {line}", highlight=False, markup=False)
    if len(lines) > SHOWN:
        console.print(f"  {title}: {len(lines) - SHOWN} more in manifest.json", highlight=False)


def size(count: float) -> str:
    """A number of bytes with a suitable unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
