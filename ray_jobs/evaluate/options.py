"""The options of `paramcrop evaluate`, and the request that they make."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paramcrop.data.synthetic import cached_dataset
from paramcrop.errors import ConfigError, DataError
from paramcrop.storage.find import run_named
from paramcrop.storage.runs import home, is_finished
from ray_jobs.device import evaluators_device
from ray_jobs.options import EXIT_CODES, Parser, check_once, check_positive, parse_sets, resolved, whole_numbers

if TYPE_CHECKING:
    from paramcrop.evaluation.tasks import Request
    from paramcrop.settings.config import Config

SYNTHETIC = "synthetic"
MADE_UP, MADE_UP_TEST = 192, 64
BASELINES = ("random-init", "pixels")
PRETRAINED = ("torchvision-s3d", "torchvision-r3d_18")  # baselines with a file: ORIGINS of paramcrop.models.foreign
DEFAULT_PROTOCOLS = ("retrieval", "knn", "heads")


def parse_arguments(argv: Sequence[str], summary: str) -> argparse.Namespace:
    parser = Parser(
        "paramcrop evaluate", description=summary, epilog=EXIT_CODES, formatter_class=argparse.RawTextHelpFormatter
    )
    add_subjects(parser)
    add_protocols(parser)
    add_execution(parser)
    arguments = parser.parse_args(argv)
    check_positive(arguments, "timeout", "evaluators")
    check_once("--task", arguments.task or ())
    check_baselines(arguments.baseline or ())
    return arguments


def check_baselines(texts: Sequence[str]) -> None:
    """Raises:
    ConfigError: a baseline is unknown or given twice, or has a file that it cannot have.
    """
    names = [text.partition("=")[0] for text in texts]
    check_once("--baseline", names)
    for name, text in zip(names, texts, strict=True):
        if name not in (*BASELINES, *PRETRAINED):
            raise ConfigError(f"--baseline must be one of {', '.join((*BASELINES, *PRETRAINED))}, but is {name!r}")
        if name in BASELINES and "=" in text:
            raise ConfigError(f"--baseline {name} has no file, but is {text!r}")


def add_subjects(parser: argparse.ArgumentParser) -> None:
    """What is evaluated."""
    add = parser.add_argument
    add(
        "--run",
        nargs="+",
        action="extend",
        metavar="RUN",
        help="folders, URIs, names or ids of runs (default: the newest demo run)",
    )
    add("--epoch", type=int, help="epoch of the checkpoint (default: the newest)")
    add(
        "--baseline",
        nargs="*",
        action="extend",
        metavar="NAME",
        help=f"baselines to evaluate as well: {', '.join(BASELINES)} (default: none; without --run: both),\n"
        f"{', '.join(f'{name}=FILE' for name in PRETRAINED)}: torchvision's weights\n"
        "(without =FILE: where torchvision keeps what it has downloaded)",
    )
    add(
        "--weights",
        metavar="FILE",
        help="a foreign checkpoint or an exported model.safetensors\nfor the runs' backbone, to evaluate as well",
    )
    add(
        "--prefix",
        nargs="+",
        action="extend",
        metavar="OLD=NEW",
        default=[],
        help="rename prefixes of its names; drop other names",
    )


def add_protocols(parser: argparse.ArgumentParser) -> None:
    """How it is evaluated, and on what."""
    add = parser.add_argument
    add(
        "--task",
        nargs="+",
        action="extend",
        metavar="[DATASET/]PROTOCOL",
        help=f"default: {', '.join(DEFAULT_PROTOCOLS)} on each dataset\n{known()}",
    )
    add(
        "--data",
        nargs="+",
        action="extend",
        metavar="NAME=FOLDER",
        default=[],
        help="datasets written by `paramcrop prepare` (folder or URI);\n'synthetic' needs none",
    )
    add("--splits", metavar="1,2,3", help="split numbers, for datasets with several (default: all)")
    add("--seeds", metavar="0,1,2", default="0", help="seeds of head, order and labelled share (default: 0)")
    add(
        "--set",
        nargs="+",
        action="extend",
        metavar="key=value",
        default=[],
        help="parameters of the protocols; changed ones become part of the protocol's name",
    )
    add(
        "--as-pretrained",
        action="store_true",
        help="use clips with the size, length and frame rate of the run's views; the default without --run",
    )


def add_execution(parser: argparse.ArgumentParser) -> None:
    """Where it is computed."""
    add = parser.add_argument
    add("--evaluators", type=int, help="concurrent evaluations (default: one per GPU; one on CPUs)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: GPUs if the cluster has any")
    add("--timeout", type=float, default=60.0, help="seconds that a video may take to decode (default: 60)")
    add("--fresh", action="store_true", help="repeat finished evaluations")
    add("--dry-run", action="store_true", help="print the evaluations to do, then exit")


def known() -> str:
    """The list of protocols, for the help."""
    return "protocols: retrieval, linear, finetune, heads (short for the first ones of their kind),\n" + ", ".join(
        names()
    )


def names() -> list[str]:
    from paramcrop.evaluation.protocols import PROTOCOLS

    return list(PROTOCOLS)


def find_runs(arguments: argparse.Namespace) -> list[Path]:
    """The folders of the runs to evaluate.

    Raises:
        DataError: a run does not exist, or there is no demo run. ConfigError: a run is named twice.
    """
    runs = home() / "runs"
    if arguments.run is None:
        finished = [folder for folder in runs.glob("demo-*") if is_finished(folder)]
        if not finished:
            raise DataError(f"--run is needed, because {runs} has no finished demo; `paramcrop pretrain` makes one")
        return [max(finished, key=lambda folder: (folder / "status.json").stat().st_mtime)]
    found = [run_named(name) for name in arguments.run]
    check_once("--run", map(str, found))
    return found


def find_data(arguments: argparse.Namespace, config: Config) -> dict[str, str]:
    """Name of a dataset -> its folder. "synthetic" is made if a task names it, or if there is no other dataset."""
    data = parse_sets(arguments.data)
    named = [task.rpartition("/")[0] for task in arguments.task or [] if "/" in task]
    if SYNTHETIC in named or not (data or named):
        size = config.data.clip_frames, config.data.clip_size
        data.setdefault(SYNTHETIC, cached_dataset(home() / "data", *size, MADE_UP, seed=1, test=MADE_UP_TEST))
    return data


def make_request(arguments: argparse.Namespace, data: Mapping[str, str], config: Config) -> Request:
    """The evaluations that the options request.

    Raises:
        ConfigError: a dataset, protocol, parameter or prefix is invalid.
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
        files=baseline_files(arguments.baseline or ()),
        weights=weights,
        prefixes=prefixes,
        device=evaluators_device(arguments.device),
    )


def subjects(arguments: argparse.Namespace) -> Sequence[str]:
    """The subjects to evaluate besides the runs."""
    default = () if arguments.run else BASELINES
    named = default if arguments.baseline is None else [text.partition("=")[0] for text in arguments.baseline]
    return (*named, *(["weights"] if arguments.weights else []))


def baseline_files(texts: Sequence[str]) -> dict[str, str]:
    """Baseline -> its file; one without is looked for where torchvision keeps what it has downloaded.

    Raises:
        ConfigError: it is not there.
    """
    from torch.hub import get_dir

    from paramcrop.models.foreign import FILES

    files = dict[str, str]()
    for name, _, file in (text.partition("=") for text in texts):
        if name in PRETRAINED:
            kept = Path(get_dir()) / "checkpoints" / FILES[name]
            if not file and not kept.exists():
                raise ConfigError(
                    f"--baseline {name} needs its file, {name}=FILE: https://download.pytorch.org/models/{FILES[name]}"
                )
            files[name] = resolved(file) if file else str(kept)
    return files


def foreign(arguments: argparse.Namespace) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The foreign checkpoint's file and the prefixes to rename; without --prefix, names stay as they are."""
    if arguments.prefix and not arguments.weights:
        raise ConfigError("--prefix needs --weights")
    pairs = [text.partition("=") for text in arguments.prefix]
    for old, equals, new in pairs:
        if not equals:
            raise ConfigError(f"--prefix must be OLD=NEW, but is {old + equals + new!r}")
    file = resolved(arguments.weights) if arguments.weights else ""
    return file, tuple((old, new) for old, _, new in pairs) or (("", ""),)
