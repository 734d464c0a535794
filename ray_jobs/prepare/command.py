"""Turn videos and their lists into Parquet shards and a manifest, on Ray: `paramcrop prepare --help`.

You can kill it at any time: the same command resumes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

from rich.console import Console

from paramcrop.data.killable import may_pass
from paramcrop.data.manifest import MANIFEST, Manifest, read_manifest
from paramcrop.data.prepare.attempt import clean, finish, finished, leftovers, read_parts, strangers, working
from paramcrop.data.prepare.datasets import find_dataset, with_test_share
from paramcrop.data.prepare.plan import Part, Plan, make_plan
from paramcrop.data.prepare.transcode import probe
from paramcrop.data.shards import check_files, check_shards
from paramcrop.errors import DataError
from ray_jobs.prepare.options import parse_arguments
from ray_jobs.prepare.progress import Videos
from ray_jobs.prepare.report import describe_estimate, describe_plan, print_summary, treated
from ray_jobs.terminal import Progress

PROBE_TIMEOUT = 10.0  # seconds per video, for the few videos of the estimate
SYNTHETIC_FRAMES = 72  # a clip of 64 frames and a margin


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
    """List the videos, plan the shards and, unless they are finished or this is a dry run, transcode."""
    start = time.monotonic()
    a = arguments
    dataset = find_dataset(a.dataset, a.videos, a.annotations)
    if a.test_share is not None:
        dataset = with_test_share(dataset, a.dataset, a.test_share, a.seed)
    plan = make_plan(dataset, a.dataset, a.short_side, a.crf, a.shard_videos, a.seed)
    if not dataset.sources:
        raise DataError(f"--annotations={a.annotations} must list videos, but has no line besides the header")
    if not plan.pieces:
        raise DataError(
            f"--videos: {a.videos} has none of the {len(plan.missing)} listed videos, such as {plan.missing[0].path}"
        )
    if is_finished(a, lambda manifest: manifest.plan == plan.id, console):
        return
    console.print(describe_plan(plan, dataset), highlight=False, markup=False)
    if others := strangers(a.out):
        text = f"warning: --out={a.out} also has {len(others)} other file(s) or folder(s), such as {others[0]}"
        console.print(f"{text}; they are left alone", highlight=False, markup=False)
    if a.dry_run:
        print_estimate(a, plan, {} if a.fresh else read_parts(a.out, plan), console)
        return
    with working(a.out, a.fresh):
        parts = read_parts(a.out, plan)
        left = print_estimate(a, plan, parts, console)
        transcode(a, plan, parts, console)
        print_summary(finish(a.out, plan, parts), a.out, time.monotonic() - start, left, console)


def print_estimate(arguments: argparse.Namespace, plan: Plan, parts: dict[int, Part], console: Console) -> int:
    """Print what is done and an estimate for the rest -> the number of remaining videos."""
    total, before = len(plan.sources), sum(part.done for part in parts.values())
    if parts:
        console.print(f"{len(parts)} shards, {before} videos, are done by an earlier attempt", highlight=False)
    estimate = probe(plan, arguments.videos, min(arguments.timeout, PROBE_TIMEOUT))
    console.print(describe_estimate(estimate, 1 - before / total), highlight=False)
    return total - before


def is_finished(arguments: argparse.Namespace, same: Callable[[Manifest], bool], console: Console) -> bool:
    """Whether --out is finished, which is also printed.

    Raises:
        DataError: --out contains another dataset. ShardError: one of its shards is missing or has another size.
    """
    a = arguments
    manifest = None if a.fresh else finished(a.out, same)
    if manifest is None:
        return False
    check_files(a.out, manifest, "--fresh makes it again")
    if not a.dry_run:
        clean(a.out, manifest)
    content = f"{manifest.videos} videos, content id {manifest.content_id}"
    console.print(f"{a.out} is already finished ({content}); --fresh starts over", highlight=False, markup=False)
    if passing := [row for row in manifest.rejected if may_pass(row["reason"])]:
        text = f"{len(passing)} of its videos failed by time, memory or storage, such as {passing[0]['path']}"
        console.print(f"{text}: {passing[0]['reason']}; --fresh tries them again", highlight=False, markup=False)
    return True


def transcode(arguments: argparse.Namespace, plan: Plan, parts: dict[int, Part], console: Console) -> None:
    """Make the shards that ``parts`` lacks, on Ray, which is started only if some are missing."""
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
        for part in make_shards(left, a.videos, a.out, a.timeout, videos.report):
            parts[number[part.piece]] = part


def prepare_synthetic(arguments: argparse.Namespace, console: Console) -> None:
    """Write a set of moving shapes in this process. It is quick, so a killed attempt starts over."""
    from paramcrop.data.synthetic import dataset_settings, make_dataset

    start, a = time.monotonic(), arguments
    height, width = a.short_side, 2 * round(a.short_side * 2 / 3)
    size = (a.count, SYNTHETIC_FRAMES, height, width, a.seed)
    if is_finished(a, lambda manifest: manifest.settings == dataset_settings(*size), console):
        return
    console.print(f"{a.count} synthetic videos, {SYNTHETIC_FRAMES} frames of {height} x {width}", highlight=False)
    if a.dry_run:
        return
    with working(a.out, a.fresh):
        make_dataset(a.out, *size)
        manifest = read_manifest(a.out)
        clean(a.out, manifest)
    print_summary(manifest, a.out, time.monotonic() - start, a.count, console)


def check(out: str, console: Console) -> None:
    """Compare a folder with its manifest.

    Raises:
        DataError: the folder is unfinished or does not match its manifest.
    """
    problems = check_shards(out) + leftovers(out)
    for problem in problems:
        console.print(problem, highlight=False, markup=False)
    if problems:
        found = "1 problem was" if len(problems) == 1 else f"{len(problems)} problems were"
        raise DataError(f"{out} must match its {MANIFEST}, but {found} found, see above")
    manifest = read_manifest(out)
    content = f"{manifest.videos} videos in {len(manifest.shards)} shards, content id {manifest.content_id}"
    console.print(f"ok: {content}", highlight=False, markup=False)
    for what, count in treated(manifest).items():
        console.print(f"  {what}: {count}", highlight=False, markup=False)
