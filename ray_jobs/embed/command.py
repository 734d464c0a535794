"""Embed a folder of videos: `paramcrop embed --weights ENCODER --videos FOLDER --out features.parquet`, on Ray.

Writes a row for each clip: its video, its time, its features and a picture; and beside it a page, features.html, with
the nearest neighbours of every clip and a 2-D map. You can kill it at any time: the same command resumes. Videos that
are new or have changed are embedded, the others are not again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from paramcrop.errors import DataError, ParamCropError
from ray_jobs.embed.options import CLIPS, FOUND, parse_arguments

if TYPE_CHECKING:
    from paramcrop.export.encoder import Encoder
    from paramcrop.export.features import Features


def main(argv: Sequence[str]) -> None:
    arguments, start = parse_arguments(argv, __doc__ or ""), time.monotonic()
    console = Console(soft_wrap=True, highlight=False, markup=False)
    from paramcrop.data.prepare.files import list_videos

    sizes = list_videos(arguments.videos)
    if not sizes:
        raise DataError(f"--videos={arguments.videos} must have videos, but has none")
    from ray_jobs.embed.work import embed_left, make_work

    work = make_work(arguments, sizes)
    for line in work.describe():
        console.print(line)
    if arguments.dry_run:
        return
    if work.left:
        embed_left(work, arguments, console)
    features = work.finish()
    for line in after(features, work.encoder, arguments):
        console.print(line)
    count = len([path for path in work.new if path not in work.failed])
    console.print(f"{count} video{'s' * (count != 1)} embedded in {time.monotonic() - start:.0f} s")
    if len(work.failed) == len(sizes):
        path, reason = next(iter(work.failed.items()))
        raise ParamCropError(f"none of the {len(sizes)} videos could be read, such as {path}: {reason}")


def after(features: Features, encoder: Encoder, arguments: argparse.Namespace) -> list[str]:
    """Write the index and the page, and search -> a line for each."""
    lines = [f"  {features.file}  {len(features.path)} clips, {features.vectors.shape[1]} features each"]
    if not len(features.path):
        return lines
    if arguments.index:
        from paramcrop.export.search import installed, write_index

        kind = installed()
        lines.append(
            f"  {write_index(features.vectors, features.file, kind)}  index by {kind}"
            if kind
            else "note: no index, because neither faiss nor hnswlib is installed (pip install 'paramcrop[index]'); "
            "the search compares all clips"
        )
    if not arguments.no_page:
        from paramcrop.export.gallery import write_gallery

        lines.append(f"  {write_gallery(features, features.file.with_suffix('.html'))}  nearest neighbours and a map")
    return lines + [line for video in arguments.query for line in found(features, encoder, video, arguments.clips)]


def found(features: Features, encoder: Encoder, video: str, clips: int | None) -> list[str]:
    """The clips nearest to the mean of a video's features."""
    query = encoder.embed(video, clips or CLIPS)
    hits = features.search(query, FOUND)[0]
    return [
        f"nearest to {video}:",
        *(f"  {hit.cosine:.3f}  {hit.path}  {hit.start:.1f} to {hit.end:.1f} s" for hit in hits),
    ]
