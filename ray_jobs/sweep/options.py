"""The options of `paramcrop sweep`, and the spaces that they select. Imports neither torch nor ray."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence

from paramcrop.errors import ConfigError
from paramcrop.paper.spaces import DEMO, paper_space, preset_of, with_stand_in
from paramcrop.paper.tables import read_paper
from paramcrop.settings.presets import all_options, parse_override, preset_names
from paramcrop.sweeps.space import Space, find_space, read_space, space_at
from ray_jobs.evaluate.options import SYNTHETIC
from ray_jobs.options import EXIT_CODES, Parser, check_cluster_option, check_once, check_positive, whole_numbers

PAPER = "paper"  # the name of all tables and figures together
AUTO, ALONE = "auto", "1"  # --trials-per-gpu: as many as fit, or one


def parse_arguments(argv: Sequence[str], summary: str) -> argparse.Namespace:
    parser = Parser(
        "paramcrop sweep", description=summary, epilog=EXIT_CODES, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add(
        "--space",
        default="es_bounds",
        metavar="FILE",
        help="a file, the name of a shipped one, a table or figure of the paper\n"
        "(table1 to table14, figure1, figure5 to figure10), or paper: all of them (default: es_bounds)",
    )
    add("--preset", help=f"preset instead of the space's: {', '.join(preset_names())}")
    add("--name", help="name of the sweep's folder below sweeps/ (default: the space's name, plus another preset's)")
    add(
        "--data",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FOLDER",
        help="datasets to evaluate on, written by `paramcrop prepare`\n(default: 'synthetic', which is made)",
    )
    add(
        "--task",
        nargs="+",
        action="extend",
        metavar="[DATASET/]PROTOCOL",
        help="tasks instead of the space's evaluate.tasks",
    )
    add("--seeds", metavar="0,1,2", help="seeds instead of the space's")
    add("--samples", type=int, help="number of trials instead of the space's; a larger one extends an earlier search")
    add("--concurrent", type=int, metavar="N", help="concurrent trials (default: planned from the resources)")
    add(
        "--trials-per-gpu",
        default=ALONE,
        metavar="auto|N",
        help="trials that may share a GPU, each with its part of the memory; auto: as many as\n"
        "the memory holds, with four CPUs for each (default: 1)",
    )
    add("--timeout", type=float, default=60.0, help="seconds that a video may take to decode (default: 60)")
    add(
        "--cluster",
        metavar="FILE",
        help="with --dry-run: check this launch file (or aws, gcp, raycluster, rayjob)\n"
        "or list of {cpus, gpus, gpu_gib, count}, and plan for it",
    )
    add("--quiet", action="store_true", help="print only one line at the end of each trial")
    add("--dry-run", action="store_true", help="print trials, runs, resources, time and disk space, then exit")
    add("overrides", nargs="*", metavar="key=value", help="settings of all trials, which override the space's")
    arguments = parser.parse_args(argv)
    check_positive(arguments, "timeout", "concurrent", "samples")
    check_once("--task", arguments.task or ())
    check_per_gpu(arguments.trials_per_gpu)
    check_cluster_option(arguments)
    return arguments


def check_per_gpu(text: str) -> None:
    """Raises:
    ConfigError: --trials-per-gpu is neither auto nor a whole number from 1 on.
    """
    if text != AUTO and not (text.isascii() and text.isdigit() and int(text)):
        raise ConfigError(f"--trials-per-gpu must be auto or a whole number above 0, but is {text!r}")


def find_sweeps(arguments: argparse.Namespace, data: Mapping[str, str]) -> list[tuple[str, Space]]:
    """The name and the space of each sweep, with the options applied; --space paper gives several.

    Raises:
        ConfigError: one line with the file or the option.
    """
    paper = read_paper()
    entries = paper.entries if paper else {}
    if arguments.space == PAPER and paper:
        return [_named_space(arguments, paper_space(paper, name), name, data) for name in entries]
    if arguments.space in entries and paper:
        return [_named_space(arguments, paper_space(paper, arguments.space), arguments.space, data)]
    path = find_space(arguments.space, entries)
    return [_named_space(arguments, read_space(path), path.stem, data)]


def _named_space(arguments: argparse.Namespace, space: Space, stem: str, data: Mapping[str, str]) -> tuple[str, Space]:
    known = [key for key, _ in all_options()]
    changes = dict(parse_override(text, known) for text in arguments.overrides)
    check_changes(space, stem, changes)
    if arguments.samples and space.search == "grid":
        raise ConfigError(f"--samples needs a space with search=random or tpe, but {stem} is a grid of all its values")
    if space.pretrained_on in data:
        changes["data.shards"] = data[space.pretrained_on]
    seeds = whole_numbers("--seeds", arguments.seeds) if arguments.seeds else None
    paper, preset = read_paper(), arguments.preset
    if space.layout and paper:
        preset = preset_of(paper, space.layout.name, preset)
    changed = space_at(space, preset, changes, arguments.task, seeds=seeds, samples=arguments.samples)
    if space.layout and changed.preset == DEMO and not data:
        changed = with_stand_in(changed, SYNTHETIC)
    other = f"-{changed.preset}" if changed.preset != space.preset else ""
    return arguments.name or stem + other, changed


def check_changes(space: Space, stem: str, changes: Iterable[str]) -> None:
    """Check that each setting, given for all trials, would reach all of them.

    Raises:
        ConfigError: the space sweeps it, or rows of its table set it.
    """
    for key in changes:
        row = next((variant.label for variant in space.variants if key in variant.set), None)
        if key in space.params or key in space.derived or row is not None:
            by = f"row {row!r} of {stem} sets it" if row is not None else f"{stem} sweeps it"
            raise ConfigError(f"{key} cannot be set for all trials, because {by}; write a space of your own")
        if key == "seed":
            raise ConfigError("seed cannot be set for all trials; --seeds 0,1,2 lists their seeds")
