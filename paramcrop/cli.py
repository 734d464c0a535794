"""The command `paramcrop`. `paramcrop sweep …` equals `python ray_jobs/sweep.py …` and works in any folder.

It imports neither torch nor ray, so that `--help` and wrong arguments are answered at once.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from io import TextIOWrapper
from types import FrameType

from paramcrop.errors import Abandoned, ConfigError, ParamCropError

COMMANDS = {  # name -> module with its main(argv), description
    "pretrain": ("ray_jobs.pretrain.command", "pretrain with ParamCrop"),
    "prepare": ("ray_jobs.prepare.command", "convert videos and their annotations to Parquet shards"),
    "evaluate": ("ray_jobs.evaluate.command", "evaluate pretrained runs: fine-tuning, linear probe, retrieval"),
    "export": ("ray_jobs.export", "export a run's encoder: safetensors, config, model card; to a folder or the Hub"),
    "embed": ("ray_jobs.embed.command", "features of a folder of videos, with a page of nearest neighbours"),
    "sweep": ("ray_jobs.sweep.command", "run a sweep: pretraining and evaluation of many settings"),
    "report": ("ray_jobs.report", "write tables, HTML page and figures of sweeps"),
    "figures": ("ray_jobs.figures", "draw figures that compare runs"),
}


_terminated: list[int] = []  # signals besides Ctrl-C that have ended this command


def main() -> None:
    """`paramcrop COMMAND …`."""
    run_command(dispatch)


def dispatch(argv: Sequence[str]) -> None:
    """Run the command ``argv[0]`` with the remaining arguments.

    Raises:
        ConfigError: the command is unknown.
    """
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print("usage: paramcrop COMMAND [options]; `paramcrop COMMAND --help` lists the options of a command\n")
        print("\n".join(f"  {command:<9} {about}" for command, (_, about) in COMMANDS.items()))
        return
    if name == "--version":
        from paramcrop import __version__

        print(f"paramcrop {__version__}")
        return
    if name not in COMMANDS:
        raise ConfigError(f"the command must be one of {', '.join(COMMANDS)}, but is {name!r}")
    find(name)(argv[1:])


def run(name: str) -> None:
    """Run one command with the arguments of this process; the scripts in ray_jobs/ call this."""
    run_command(lambda argv: find(name)(argv))


def find(name: str) -> Callable[[Sequence[str]], None]:
    """The main(argv) of a command; from then on, modules in the current folder import: a user's own classes."""
    main_of: Callable[[Sequence[str]], None] = import_module(COMMANDS[name][0]).main
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # after the command's import, so that no folder shadows its modules
    return main_of


def interrupt_on_sigterm() -> None:
    """End this command on SIGTERM as on Ctrl-C, with exit code 143; only the main thread can set this.

    ``ray.init`` sets a handler of its own, so call this after it as well.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        _terminated.append(number)
        handler = signal.getsignal(signal.SIGINT)  # a shell starts what runs in its background without one
        (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)


def run_command(main: Callable[[Sequence[str]], None]) -> None:
    """Run the main of a command; a user error becomes one line on stderr and its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal may know ASCII only
            stream.reconfigure(errors="replace")
    interrupt_on_sigterm()
    try:
        main(sys.argv[1:])
    except ParamCropError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as interrupted:
        kept = "interrupted; finished work is kept, and the same command continues from there"
        print(str(interrupted) or kept, file=sys.stderr, flush=True)
        code = 143 if _terminated else 130
        if isinstance(interrupted, Abandoned):  # an orderly exit would wait for Ray, or abort in its threads
            sys.stdout.flush()
            os._exit(code)
        sys.exit(code)
    except OSError as error:
        fixes = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space")
        if error.filename:  # otherwise it may come from anywhere
            fixes |= dict.fromkeys((errno.EACCES, errno.EROFS, errno.ENOTDIR), "choose a writable folder")
        if error.errno not in fixes:
            raise
        name, fix = error.filename or "a file", fixes[error.errno]
        print(f"error: cannot write {name}: {error.strerror}; {fix}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
