"""The command `paramcrop`: `paramcrop sweep …` is `python ray_jobs/sweep.py …`, from any folder.

Imports neither torch nor ray, so that `--help` and a mistake answer at once.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from paramcrop.errors import ConfigError, ParamCropError

COMMANDS = {  # name -> module that holds its main(argv), what it does
    "pretrain": ("ray_jobs.pretrain.command", "pretrain with ParamCrop"),
    "prepare": ("ray_jobs.prepare.command", "videos and their lists -> Parquet shards"),
    "evaluate": ("ray_jobs.evaluate.command", "fine-tune, linear probe and retrieval of pretrained runs"),
    "sweep": ("ray_jobs.sweep.command", "answer a question by a sweep of runs"),
    "report": ("ray_jobs.report", "table, page and pictures of sweeps"),
    "figures": ("ray_jobs.figures", "figures of any runs side by side"),
}


def main() -> None:
    """`paramcrop COMMAND …`."""
    run_command(dispatch)


def dispatch(argv: Sequence[str]) -> None:
    """Run the named command with the arguments that follow its name.

    Raises:
        ConfigError: there is no such command.
    """
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print("usage: paramcrop COMMAND [options]; `paramcrop COMMAND --help` lists a command's options\n")
        print("\n".join(f"  {command:<9} {about}" for command, (_, about) in COMMANDS.items()))
        return
    if name == "--version":
        from paramcrop import __version__

        print(f"paramcrop {__version__}")
        return
    if name not in COMMANDS:
        raise ConfigError(f"the command must be one of {', '.join(COMMANDS)}, but is {name!r}")
    sys.argv[0] = f"paramcrop {name}"  # what `--help` shows as the program
    find(name)(argv[1:])


def run(name: str) -> None:
    """Run one command with this process's arguments; what a script of ray_jobs/ does."""
    run_command(lambda argv: find(name)(argv))


def find(name: str) -> Callable[[Sequence[str]], None]:
    """A command's main(argv)."""
    main_of: Callable[[Sequence[str]], None] = import_module(COMMANDS[name][0]).main
    return main_of


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
