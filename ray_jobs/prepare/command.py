"""Videos and their lists -> Parquet shards and a manifest, on Ray: `python ray_jobs/prepare.py --help`.

Kill it whenever you like: the same command goes on from there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

from rich.console import Console

from paramcrop.data.manifest import MANIFEST, Manifest, read_manifest
from paramcrop.data.prepare.attempt import clean, finish, finished, leftovers, read_parts, working
from paramcrop.data.prepare.datasets import find_dataset
from paramcrop.data.prepare.plan import Part, Plan, make_plan
from paramcrop.data.prepare.transcode import probe
from paramcrop.data.shards import check_shards
from paramcrop.errors import DataError
from ray_jobs.prepare.options import parse_arguments
from ray_jobs.prepare.progress import Videos
from ray_jobs.prepare.report import describe_estimate, describe_plan, print_summary
from ray_jobs.progress import Progress

PROBE_TIMEOUT = 10.0  # seconds a video may take of the few that are tried first
SYNTHETIC_FRAMES = 72  # a clip of 64 and some room


def main(argv: Sequence[str]) -> None:
    console = Console(soft_wrap=True)
    arguments = parse_arguments(argv, __doc__ or "")
    if arguments.check:
        check(arguments.out, console)
    elif arguments.dataset == "synthetic":
        prepare_synthetic(arguments, console)
    else:
        prepare(arguments, console)


def prepare(arguments: argparse.Namespace, console: Console) -> None:
    """List, plan, and unless it is done already or a dry run, transcode."""
    start = time.monotonic()
    a = arguments
    dataset = find_dataset(a.dataset, a.videos, a.annotations)
    plan = make_plan(dataset, a.dataset, a.short_side, a.crf, a.shard_videos, a.seed)
    if not plan.pieces:
        told = f"{a.videos} has none of {len(plan.missing)}, such as {plan.missing[0].path}"
        raise DataError(f"--videos must hold the listed videos, but {told}")
    if is_finished(a, lambda manifest: manifest.plan == plan.id, console):
        return
    console.print(describe_plan(plan, dataset.unlisted), highlight=False, markup=False)
    if a.dry_run:
        tell_estimate(a, plan, {} if a.fresh else read_parts(a.out, plan), console)
        return
    with working(a.out, a.fresh):
        parts = read_parts(a.out, plan)
        left = tell_estimate(a, plan, parts, console)
        transcode(a, plan, parts, console)
        print_summary(finish(a.out, plan, parts), a.out, time.monotonic() - start, left, console)


def tell_estimate(arguments: argparse.Namespace, plan: Plan, parts: dict[int, Part], console: Console) -> int:
    """Say what is done and what the rest will take -> the videos left."""
    total, before = len(plan.sources), sum(part.done for part in parts.values())
    if parts:
        console.print(f"{len(parts)} shards, {before} videos, are there from an earlier attempt", highlight=False)
    estimate = probe(plan, arguments.videos, min(arguments.timeout, PROBE_TIMEOUT))
    console.print(describe_estimate(estimate, 1 - before / total), highlight=False)
    return total - before


def is_finished(arguments: argparse.Namespace, same: Callable[[Manifest], bool], console: Console) -> bool:
    """Whether there is nothing to do; says so.

    Raises:
        DataError: --out holds another set.
    """
    a = arguments
    manifest = None if a.fresh else finished(a.out, same)
    if manifest is None:
        return False
    if not a.dry_run:
        clean(a.out, manifest)
    told = f"{manifest.videos} videos, content id {manifest.content_id}"
    console.print(f"{a.out} is finished already ({told}); --fresh does it anew", highlight=False, markup=False)
    return True


def transcode(arguments: argparse.Namespace, plan: Plan, parts: dict[int, Part], console: Console) -> None:
    """Make the pieces that ``parts`` lacks, on Ray; nothing is started if there is none."""
    number = {piece.id: piece.number for piece in plan.pieces}
    left = [piece for piece in plan.pieces if piece.number not in parts]
    if not left:
        return
    from ray_jobs.engine.connect import connect
    from ray_jobs.engine.transcode import make_shards

    connect(ray_logs=False)
    a, before = arguments, sum(part.done for part in parts.values())
    videos = Videos(len(plan.sources), before)
    with Progress(videos.look, console):
        for part in make_shards(left, a.videos, a.out, a.timeout, videos.tell):
            parts[number[part.piece]] = part


def prepare_synthetic(arguments: argparse.Namespace, console: Console) -> None:
    """Moving shapes, made in this process; quick enough to start over when killed."""
    from paramcrop.data.synthetic import dataset_settings, make_dataset

    start, a = time.monotonic(), arguments
    height, width = a.short_side, 2 * round(a.short_side * 2 / 3)
    size = (a.count, SYNTHETIC_FRAMES, height, width, a.seed)
    if is_finished(a, lambda manifest: manifest.settings == dataset_settings(*size), console):
        return
    console.print(f"{a.count} made-up videos, {SYNTHETIC_FRAMES} frames of {height} x {width}", highlight=False)
    if a.dry_run:
        return
    with working(a.out, a.fresh):
        make_dataset(a.out, *size)
        manifest = read_manifest(a.out)
        clean(a.out, manifest)
    print_summary(manifest, a.out, time.monotonic() - start, a.count, console)


def check(out: str, console: Console) -> None:
    """Raises:
    DataError: the folder is not finished, or not as its manifest says.
    """
    problems = check_shards(out) + leftovers(out)
    for problem in problems:
        console.print(problem, highlight=False, markup=False)
    if problems:
        raise DataError(f"{out} must be as its {MANIFEST} says, but {len(problems)} problems were found")
    manifest = read_manifest(out)
    told = f"{manifest.videos} videos in {len(manifest.shards)} shards, content id {manifest.content_id}"
    console.print(f"ok: {told}", highlight=False, markup=False)
