"""The options of evaluate.py, and what they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paramcrop.data.synthetic import cached_dataset
from paramcrop.errors import ConfigError, DataError, ParamCropError
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import home, is_finished
from ray_jobs.options import EXIT_CODES, Parser, parse_sets, resolved, whole_numbers

if TYPE_CHECKING:
    from paramcrop.evaluation.tasks import Request
    from paramcrop.settings.config import Config

SYNTHETIC = "synthetic"
MADE_UP, MADE_UP_TEST = 192, 64
BASELINES = ("random-init", "pixels")
DEFAULT_PROTOCOLS = ("retrieval", "knn", "heads")


def parse_arguments(argv: Sequence[str], summary: str) -> argparse.Namespace:
    parser = Parser(
        "paramcrop evaluate", description=summary, epilog=EXIT_CODES, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add(
        "--run",
        nargs="+",
        metavar="RUN",
        help="folders or URIs of runs, or their names below runs/ (default: the newest demo's)",
    )
    add(
        "--task",
        nargs="+",
        metavar="[DATASET/]PROTOCOL",
        help=f"default: each set's {', '.join(DEFAULT_PROTOCOLS)}\n{known()}",
    )
    add(
        "--data",
        nargs="+",
        metavar="NAME=FOLDER",
        default=[],
        help="sets as prepare.py writes them (folder or URI);\n'synthetic' is there without",
    )
    add("--splits", metavar="1,2,3", help="of sets that have several (default: all)")
    add("--seeds", metavar="0,1,2", default="0", help="of the evaluation: head, order, part of the labels (default: 0)")
    add(
        "--baseline",
        nargs="*",
        choices=BASELINES,
        metavar="NAME",
        help=f"evaluated alike: {', '.join(BASELINES)} (default: none; without --run: both)",
    )
    add("--weights", metavar="FILE", help="a foreign checkpoint for the runs' backbone, evaluated beside them")
    add("--prefix", nargs="+", metavar="OLD=NEW", default=[], help="beginnings of its names; the others are left out")
    add(
        "--set",
        nargs="+",
        metavar="key=value",
        default=[],
        help="numbers of the protocols; what differs is part of their name",
    )
    add(
        "--as-pretrained",
        action="store_true",
        help="clips of the size, length and pace of the run's views; without --run: on",
    )
    add("--epoch", type=int, help="which checkpoint (default: the newest)")
    add("--evaluators", type=int, help="evaluations at once (default: one for each GPU; one on CPUs)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: GPUs if the cluster has any")
    add("--timeout", type=float, default=60.0, help="seconds a video may take to decode (default: 60)")
    add("--fresh", action="store_true", help="evaluate anew what has been evaluated")
    add("--dry-run", action="store_true", help="print what there is to do; evaluate nothing")
    return parser.parse_args(argv)


def known() -> str:
    """The protocols, for the help."""
    return "protocols: retrieval, linear, finetune, heads (short for the first ones of their kind),\n" + ", ".join(
        names()
    )


def names() -> list[str]:
    from paramcrop.evaluation.protocols import PROTOCOLS

    return list(PROTOCOLS)


def find_runs(arguments: argparse.Namespace) -> list[Path]:
    """Raises:
    DataError: a run is not there, or there is no demo run.
    """
    runs = home() / "runs"
    if arguments.run is None:
        finished = [folder for folder in runs.glob("demo-*") if is_finished(folder)]
        if not finished:
            raise DataError(
                f"--run must name a run, for {runs} has no finished demo; python ray_jobs/pretrain.py makes one"
            )
        return [max(finished, key=lambda folder: (folder / "status.json").stat().st_mtime)]
    found = []
    for name in arguments.run:
        if "://" in name:
            found.append(_fetched(name))
            continue
        places = [Path(name).expanduser().resolve(), runs / name]
        place = next((p for p in places if (p / "config.yaml").exists()), None)
        if place is None:
            raise DataError(f"--run must be the folder of a run, but neither {places[0]} nor {places[1]} is one")
        found.append(place)
    return found


def _fetched(uri: str) -> Path:
    """This command's copy of a run that lies in a bucket.

    Raises:
        DataError: there is none.
    """
    place = Mirror.of(uri.rstrip("/"), "command")
    try:
        place.fetch(waits=())
    except (OSError, ParamCropError) as error:
        raise DataError(f"--run must be the URI of a run, but {uri}: {' '.join(str(error).split())[:200]}") from None
    if not (place.folder / "config.yaml").exists():
        raise DataError(f"--run must be the URI of a run, but {uri} has no config.yaml")
    return place.folder


def find_data(arguments: argparse.Namespace, config: Config) -> dict[str, str]:
    """Name -> folder; "synthetic" is made if it is asked for, or if no other set is."""
    data = parse_sets(arguments.data)
    asked = [task.rpartition("/")[0] for task in arguments.task or [] if "/" in task]
    if SYNTHETIC in asked or not (data or asked):
        size = config.data.clip_frames, config.data.clip_size
        data.setdefault(SYNTHETIC, cached_dataset(home() / "data", *size, MADE_UP, seed=1, test=MADE_UP_TEST))
    return data


def make_request(arguments: argparse.Namespace, data: Mapping[str, str], config: Config) -> Request:
    """Raises:
    ConfigError: a set, a protocol, a number or a prefix is not known.
    """
    from paramcrop.evaluation.tasks import Request, as_pretrained, find_tasks

    texts = arguments.task or [f"{name}/{protocol}" for name in data for protocol in DEFAULT_PROTOCOLS]
    view = as_pretrained(config) if arguments.as_pretrained or arguments.run is None else []
    weights, prefixes = foreign(arguments)
    return Request(
        tasks=find_tasks(texts, data, arguments.set, view),
        data=data,
        splits=tuple(str(n) for n in whole_numbers("--splits", arguments.splits)) if arguments.splits else (),
        seeds=tuple(whole_numbers("--seeds", arguments.seeds)),
        subjects=("run", *subjects(arguments)),
        weights=weights,
        prefixes=prefixes,
    )


def subjects(arguments: argparse.Namespace) -> Sequence[str]:
    """What is evaluated beside the runs."""
    baselines = arguments.baseline if arguments.baseline is not None else () if arguments.run else BASELINES
    return (*baselines, *(["weights"] if arguments.weights else []))


def foreign(arguments: argparse.Namespace) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The foreign checkpoint's file and the prefixes of its names; none: all names are as they are."""
    if arguments.prefix and not arguments.weights:
        raise ConfigError("--prefix must go with --weights, but that is not given")
    pairs = [text.partition("=") for text in arguments.prefix]
    for old, equals, new in pairs:
        if not equals:
            raise ConfigError(f"--prefix must be OLD=NEW, but is {old + equals + new!r}")
    file = resolved(arguments.weights) if arguments.weights else ""
    return file, tuple((old, new) for old, _, new in pairs) or (("", ""),)
