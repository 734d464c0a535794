"""The options of `paramcrop prepare`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from paramcrop.data.prepare.datasets import DATASETS, check_name
from paramcrop.errors import ConfigError
from ray_jobs.options import EXIT_CODES, Parser, check_positive, resolved

DEFAULTS = {"crf": 20, "timeout": 60.0, "shard_videos": 256, "count": 2000}


def parse_arguments(argv: Sequence[str], summary: str) -> argparse.Namespace:
    """Parse the options, check them against each other, fill in defaults, and make local paths absolute.

    Raises:
        ConfigError, DataError: an option is missing, invalid or not applicable.
    """
    parser = Parser("paramcrop prepare", description=summary, epilog=EXIT_CODES)
    parser.add_argument("--dataset", metavar="NAME", help=f"{', '.join(DATASETS)}, synthetic")
    parser.add_argument("--videos", metavar="DIR", help="folder (or URI) that contains the videos, at any depth")
    parser.add_argument(
        "--annotations", metavar="PATH", help="the official lists or, for folder, a CSV with file,class[,split][,group]"
    )
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="folder (or URI) for the shards, shared by all nodes"
    )
    parser.add_argument("--short-side", type=int, default=128, help="short side of the videos, pixels (default: 128)")
    parser.add_argument("--crf", type=int, help="x264 quality, 0 (lossless) to 51 (default: 20)")
    parser.add_argument("--timeout", type=float, help="seconds that one video may take (default: 60)")
    parser.add_argument("--shard-videos", type=int, help="videos per shard (default: 256)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order and of --test-share (default: 0)")
    share = "share of each class to test with, such as .2, for a set without splits; no group is divided"
    parser.add_argument("--test-share", type=float, metavar="SHARE", help=f"{share} (default: none)")
    parser.add_argument("--count", type=int, help="number of videos, for synthetic (default: 2000)")
    parser.add_argument("--fresh", action="store_true", help="start over, and discard what is in --out")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and an estimate, then exit")
    parser.add_argument("--check", action="store_true", help="compare --out with its manifest, then exit")
    arguments = parser.parse_args(argv)
    arguments.out = resolved(arguments.out)
    if not arguments.check:
        check_arguments(arguments)
    return arguments


def check_arguments(a: argparse.Namespace) -> None:
    """Check the options and fill in defaults; raises what ``parse_arguments`` does."""
    check_name(a.dataset, [*DATASETS, "synthetic"])
    real = ("videos", "annotations", "crf", "timeout", "shard_videos", "test_share")
    for name in real if a.dataset == "synthetic" else ("count",):
        if getattr(a, name) is not None:
            needed = "real videos" if a.dataset == "synthetic" else "--dataset synthetic"
            raise ConfigError(f"--{name.replace('_', '-')} needs {needed}, but --dataset is {a.dataset}")
    if a.dataset != "synthetic" and a.videos is None:
        raise ConfigError(f"--dataset {a.dataset} needs --videos, the folder of its videos")
    for name, value in DEFAULTS.items():
        if getattr(a, name) is None:
            setattr(a, name, value)
    if a.short_side < 16 or a.short_side % 2:
        raise ConfigError(f"--short-side must be an even number of at least 16 pixels, but is {a.short_side}")
    if not 0 <= a.crf <= 51:
        raise ConfigError(f"--crf must be between 0 and 51, but is {a.crf}")
    check_positive(a, "timeout", "shard_videos", "count")
    if a.test_share is not None and not 0 < a.test_share < 1:
        raise ConfigError(f"--test-share must be between 0 and 1, but is {a.test_share}")
    if a.seed < 0:
        raise ConfigError(f"--seed must be at least 0, but is {a.seed}")
    a.videos, a.annotations = (path and resolved(path) for path in (a.videos, a.annotations))
