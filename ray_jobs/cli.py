"""What the commands share: arguments, one-line errors, exit codes. Imports neither torch nor ray."""

from __future__ import annotations

import argparse
import errno
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from paramcrop.config import Config
from paramcrop.errors import ConfigError, ParamCropError
from paramcrop.presets import describe_options, load_config, preset_names

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


@contextmanager
def uncollected() -> Iterator[None]:
    """For what soon ends: looking for garbage is a sixth of the time that it takes to import torch."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def run_command(main: Callable[[Sequence[str]], None]) -> None:
    """Run a command's main; a user's mistake ends it with one line on stderr and its exit code."""
    try:
        main(sys.argv[1:])
    except ParamCropError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; what is done is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: the disk must have room: {error.filename or ''}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
