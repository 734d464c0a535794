"""The options of `paramcrop embed`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from paramcrop.errors import ConfigError
from ray_jobs.options import EXIT_CODES, Parser, check_positive, resolved

CLIPS = 4  # of each video, by default
FOUND = 10  # clips that are printed for a query


def parse_arguments(argv: Sequence[str], summary: str) -> argparse.Namespace:
    parser = Parser(
        "paramcrop embed", description=summary, epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", required=True, metavar="ENCODER", help="what paramcrop.load takes: exported folder, run, file, …")
    add("--like", metavar="ENCODER", help="for a file of weights: an encoder or a run of the same architecture")
    add("--trust", action="store_true", help="import a class of your own that an exported folder names")
    add("--videos", required=True, metavar="FOLDER", help="folder or URI, searched below; all nodes must read it")
    add("--out", required=True, metavar="FILE", help="the Parquet file")
    add("--clips", type=int, help="clips of each video, evenly spaced (default: 4)")
    add("--every", type=float, metavar="SECONDS", help="instead, a clip every so many seconds")
    add("--index", action="store_true", help="build an index by faiss or hnswlib, if one is installed, for the search")
    add("--query", nargs="+", default=[], metavar="VIDEO", help=f"print the {FOUND} clips nearest to these videos")
    add("--no-page", action="store_true", help="write no page")
    add("--evaluators", type=int, help="encoders at once (default: one per GPU; one on CPUs)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: GPUs if the cluster has any")
    add("--timeout", type=float, default=60.0, help="seconds that 20 clips of a video may take (default: 60)")
    add("--fresh", action="store_true", help="embed all videos again")
    add("--dry-run", action="store_true", help="print what would be embedded, then exit")
    arguments = parser.parse_args(argv)
    check_positive(arguments, "clips", "every", "evaluators", "timeout")
    if arguments.clips and arguments.every:
        raise ConfigError("--clips and --every must not be given together")
    if Path(arguments.out).suffix != ".parquet":
        raise ConfigError(f"--out must be a file named *.parquet, but is {arguments.out!r}")
    for video in arguments.query:
        if not Path(video).expanduser().is_file():
            raise ConfigError(f"--query must be a video file, but {video} is not there")
    arguments.videos = resolved(arguments.videos)
    return arguments
