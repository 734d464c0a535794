"""Arguments, one-line errors and exit codes of all commands. Imports neither torch nor ray."""

from __future__ import annotations

import argparse
import gc
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from paramcrop.errors import ConfigError
from paramcrop.settings.config import LARGEST_SEED, Config
from paramcrop.settings.custom import is_custom
from paramcrop.settings.presets import describe_options, load_config, preset_names

EXIT_CODES = (
    "exit codes: 0 done, 1 failed, 2 wrong setting or input, 3 not enough resources, 130 interrupted, 143 by SIGTERM"
)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists all options")


def config_parser(command: str, summary: str, preset: str, argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """A parser with ``--preset``, ``--config``, ``--dry-run`` and ``key=value``; its ``--help`` lists every setting.

    Args:
        argv: what will be parsed; the help shows the values of the preset that it names.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--preset", nargs="?", default=preset)
    named = early.parse_known_args(argv)[0].preset or preset
    parser = Parser(
        prog=command,
        description=summary,
        epilog=f"options, as key=value (those of --preset {named} shown):\n\n{describe_options(named)}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default=preset, help=f"{', '.join(preset_names())} (default: {preset})")
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings, which override the preset's")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved settings and key figures, then exit")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, which override the file's")
    return parser


def parse_config(arguments: argparse.Namespace) -> Config:
    return load_config(arguments.preset, arguments.config, arguments.overrides)


def parse_sets(texts: Iterable[str]) -> dict[str, str]:
    """Parse ``--data NAME=FOLDER ...`` -> name -> folder.

    Raises:
        ConfigError: a text does not have this form, or a name is given twice.
    """
    data = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or "/" in name:
            raise ConfigError(f"--data must be NAME=FOLDER, but is {text!r}")
        if name in data:
            raise ConfigError(f"--data must name each dataset once, but names {name!r} twice")
        data[name] = resolved(folder)
    return data


def check_once(option: str, names: Iterable[str]) -> None:
    """Raises:
    ConfigError: a name is given twice.
    """
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"{option} must name each once, but names {twice[0]!r} twice")


def check_positive(arguments: argparse.Namespace, *names: str) -> None:
    """Raises:
    ConfigError: one of these options is given, but is not a number above 0.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"--{name.replace('_', '-')} must be above 0, but is {value}")


def check_cluster_option(arguments: argparse.Namespace) -> None:
    """Raises:
    ConfigError: --cluster without --dry-run, as if the command would run there.
    """
    if arguments.cluster and not arguments.dry_run:
        raise ConfigError(
            f"--cluster {arguments.cluster} needs --dry-run, which plans for it; to compute there, start that cluster "
            "and submit the command to it: see cluster/README.md"
        )


def resolved(folder: str) -> str:
    """A URI unchanged, or an absolute local path."""
    return folder if "://" in folder else str(Path(folder).expanduser().resolve())


def probe_data(config: Config) -> str | None:
    """Folder or URI of the labelled set that a run is probed on; None: it is not."""
    return resolved(config.probe.data) if config.probe.every is not None and config.probe.data is not None else None


def whole_numbers(option: str, text: str) -> list[int]:
    """Parse "0,1,2" -> [0, 1, 2].

    Raises:
        ConfigError: the text does not have this form, or a number is negative, too large or given twice; the message
            names the option.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} must be whole numbers separated by commas, but is {text!r}") from None
    check_once(option, map(str, numbers))
    if wrong := [number for number in numbers if not 0 <= number <= LARGEST_SEED]:
        raise ConfigError(f"{option} must be whole numbers from 0 to {LARGEST_SEED}, but one is {wrong[0]}")
    return numbers


@contextmanager
def uncollected() -> Iterator[None]:
    """Disable garbage collection in a short command: collecting takes a sixth of the time of importing torch."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def check_classes(configs: Sequence[Config]) -> None:
    """Build each of the user's own backbones and policies once.

    Raises:
        ConfigError: one cannot be imported, built or used.
    """
    backbones = {c.backbone.model_dump_json(): c for c in configs if is_custom(c.backbone.name)}
    policies = {json.dumps([c.policy, c.policy_kwargs]): c for c in configs if is_custom(c.policy)}
    if backbones or policies:
        from paramcrop.training.build import build_backbone, build_policy  # imports torch

        for config in backbones.values():
            build_backbone(config)
        for config in policies.values():
            build_policy(config)
