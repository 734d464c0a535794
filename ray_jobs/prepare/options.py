"""The options of prepare.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from paramcrop.data.prepare.datasets import DATASETS, check_name
from paramcrop.errors import ConfigError
from ray_jobs.options import EXIT_CODES, Parser, resolved

DEFAULTS = {"crf": 20, "timeout": 60.0, "shard_videos": 256, "count": 2000}


def parse_arguments(argv: Sequence[str], summary: str) -> argparse.Namespace:
    """The options, checked against each other, defaults filled in, local paths made absolute.

    Raises:
        ConfigError, DataError: one is missing, wrong or without meaning here.
    """
    parser = Parser("paramcrop prepare", description=summary, epilog=EXIT_CODES)
    parser.add_argument("--dataset", metavar="NAME", help=f"{', '.join(DATASETS)}, synthetic")
    parser.add_argument("--videos", metavar="DIR", help="folder (or URI) below which the videos lie")
    parser.add_argument(
        "--annotations", metavar="PATH", help="the official lists, or, for folder, a CSV file,class[,split][,group]"
    )
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="folder (or URI) of the shards, shared by all nodes"
    )
    parser.add_argument("--short-side", type=int, default=128, help="pixels (default: 128)")
    parser.add_argument("--crf", type=int, help="x264's quality, 0 (lossless) to 51 (default: 20)")
    parser.add_argument("--timeout", type=float, help="seconds one video may take (default: 60)")
    parser.add_argument("--shard-videos", type=int, help="videos per shard (default: 256)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the videos (default: 0)")
    parser.add_argument("--count", type=int, help="videos to make, for synthetic (default: 2000)")
    parser.add_argument("--fresh", action="store_true", help="do it anew, whatever --out holds of an earlier attempt")
    parser.add_argument("--dry-run", action="store_true", help="print what there is to do; write nothing")
    parser.add_argument(
        "--check", action="store_true", help="compare what --out holds with its manifest; do nothing else"
    )
    arguments = parser.parse_args(argv)
    arguments.out = resolved(arguments.out)
    if not arguments.check:
        check_arguments(arguments)
    return arguments


def check_arguments(a: argparse.Namespace) -> None:
    """Raises what ``parse_arguments`` does; fills in defaults."""
    check_name(a.dataset, [*DATASETS, "synthetic"])
    real = ("videos", "annotations", "crf", "timeout", "shard_videos")
    for name in real if a.dataset == "synthetic" else ("count",):
        if getattr(a, name) is not None:
            needed = "real videos" if a.dataset == "synthetic" else "--dataset synthetic"
            raise ConfigError(f"--{name.replace('_', '-')} must go with {needed}, but --dataset is {a.dataset}")
    if a.dataset != "synthetic" and a.videos is None:
        raise ConfigError(f"--videos must name the folder of {a.dataset}'s videos, but is not given")
    for name, value in DEFAULTS.items():
        if getattr(a, name) is None:
            setattr(a, name, value)
    if a.short_side < 16 or a.short_side % 2:
        raise ConfigError(f"--short-side must be an even number of at least 16 pixels, but is {a.short_side}")
    if not 0 <= a.crf <= 51:
        raise ConfigError(f"--crf must be between 0 and 51, but is {a.crf}")
    for name in ("timeout", "shard_videos", "count"):
        if not getattr(a, name) > 0:
            raise ConfigError(f"--{name.replace('_', '-')} must be above 0, but is {getattr(a, name)}")
    if a.seed < 0:
        raise ConfigError(f"--seed must be at least 0, but is {a.seed}")
    a.videos, a.annotations = (path and resolved(path) for path in (a.videos, a.annotations))
