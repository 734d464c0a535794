"""What the commands share: arguments, one-line errors, exit codes. Imports neither torch nor ray."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from paramcrop.errors import ConfigError
from paramcrop.settings.config import Config
from paramcrop.settings.presets import describe_options, load_config, preset_names

EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong setting or input, 3 not enough resources, 130 interrupted"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists all options")


def config_parser(command: str, summary: str, preset: str) -> argparse.ArgumentParser:
    """``--preset``, ``--config``, ``--dry-run`` and ``key=value``; ``--help`` lists every option."""
    parser = Parser(
        prog=command,
        description=summary,
        epilog=f"options, as key=value (default shown):\n\n{describe_options()}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default=preset, help=f"{', '.join(preset_names())} (default: {preset})")
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings, over the preset's")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved settings and figures; do nothing")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, over the file's")
    return parser


def parse_config(arguments: argparse.Namespace) -> Config:
    return load_config(arguments.preset, arguments.config, arguments.overrides)


def parse_sets(texts: Iterable[str]) -> dict[str, str]:
    """``--data NAME=FOLDER ...`` -> name -> folder.

    Raises:
        ConfigError: a text is none of this form.
    """
    data = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or "/" in name:
            raise ConfigError(f"--data must be NAME=FOLDER, but is {text!r}")
        data[name] = resolved(folder)
    return data


def resolved(folder: str) -> str:
    """A URI as it is, a local path made absolute."""
    return folder if "://" in folder else str(Path(folder).expanduser().resolve())


def whole_numbers(option: str, text: str) -> list[int]:
    """ "0,1,2" -> [0, 1, 2].

    Raises:
        ConfigError: it is not of this form; names the option.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} must be whole numbers with commas between, but is {text!r}") from None


@contextmanager
def uncollected() -> Iterator[None]:
    """For what soon ends: looking for garbage is a sixth of the time that it takes to import torch."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
