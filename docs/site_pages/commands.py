"""What ``--help`` prints, command by command."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress

from paramcrop.cli import COMMANDS, dispatch
from paramcrop.settings.presets import describe_options

WIDTH = 88


def commands_page() -> str:
    text = "# Command line\n\n`paramcrop COMMAND …` and `python ray_jobs/COMMAND.py …` are the same command.\n"
    for name, (_, about) in COMMANDS.items():
        shown = help_of(name).replace(describe_options("demo"), "  see the page Settings").strip()
        text += f"\n## paramcrop {name}\n\n{about[0].upper()}{about[1:]}.\n\n```text\n{shown}\n```\n"
    return text


def help_of(command: str) -> str:
    """A command's ``--help``, ``WIDTH`` columns wide."""
    out = io.StringIO()
    with _as_it_was(), redirect_stdout(out), suppress(SystemExit):
        os.environ["COLUMNS"] = str(WIDTH)
        dispatch([command, "--help"])
    return out.getvalue()


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Afterwards, this process has its environment and its name back."""
    environment, program = dict(os.environ), sys.argv[0]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.argv[0] = program
