"""A sweep's table, page and pictures: `python ray_jobs/report.py [--sweep NAME_OR_FOLDER ...]`. Needs no Ray.

With no argument: the newest sweep. It may still be at work: what is there is shown, and what is missing is named.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Terminal

from paramcrop.cli import run
from paramcrop.errors import ConfigError, DataError
from paramcrop.storage.runs import home
from ray_jobs.options import EXIT_CODES, Parser

if TYPE_CHECKING:
    from paramcrop.report.table import Table, Task

FILE = "space.yaml"
BEST = 10  # of a search, in the terminal


def main(argv: Sequence[str]) -> None:
    console = Console(soft_wrap=True)
    arguments = parse_arguments(argv)
    for folder in find_sweeps(arguments):
        from paramcrop.report.page import read_table, write_report

        print_table(read_table(folder), console)
        if arguments.dry_run:
            continue
        try:
            files = write_report(folder)
        except (PermissionError, FileExistsError, IsADirectoryError) as error:
            told = f"{error.filename2 or error.filename}: {error.strerror}"
            raise ConfigError(f"a sweep's folder must be writable, but {told}") from None
        for file in files:
            console.print(f"  {file}", highlight=False, markup=False)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("paramcrop report", description=__doc__, epilog=EXIT_CODES)
    told = "folders of sweeps, or their names below sweeps/ (default: the newest)"
    parser.add_argument("--sweep", nargs="+", metavar="SWEEP", help=told)
    parser.add_argument("--dry-run", action="store_true", help="print the table; write nothing")
    return parser.parse_args(argv)


def find_sweeps(arguments: argparse.Namespace) -> list[Path]:
    """Raises:
    DataError: a sweep is not there, or there is none at all.
    """
    sweeps = home() / "sweeps"
    if arguments.sweep is None:
        found = [path.parent for path in sweeps.glob(f"*/{FILE}")]
        if not found:
            raise DataError(f"--sweep must name a sweep, for {sweeps} has none; python ray_jobs/sweep.py makes one")
        return [max(found, key=touched)]
    return [find_sweep(name, sweeps) for name in arguments.sweep]


def find_sweep(name: str, sweeps: Path) -> Path:
    places = [Path(name).expanduser().resolve(), sweeps / name]
    place = next((p for p in places if (p / FILE).is_file()), None)
    if place is None:
        raise DataError(f"--sweep must be the folder of a sweep, but neither {places[0]} nor {places[1]} is one")
    return place


def touched(folder: Path) -> float:
    """When its space or one of its trials' records was last written."""
    return max(path.stat().st_mtime for path in (folder / FILE, *(folder / "trials").glob("*.json")))


def print_table(table: Table, console: Console) -> None:
    """The main metric of each task, then how the trials ended, what failed, and what must be known."""
    from paramcrop.report import text

    whole = table
    if table.space.search != "grid":
        table = table._replace(rows=table.rows[:BEST])
    tables = Console(file=console.file)  # one that wraps
    console.print(table.space.question, highlight=False, markup=False)
    for task in table.tasks:
        tables.print(task_table(table, task))
    if settings := text.setting_lines(table):
        heads = [key.rpartition(".")[2] for key in settings[0]]
        tables.print(terminal_table("settings", [heads, *settings[1:]]))
    ends = [[line[0], line[1].partition(":")[0], *line[3:6]] for line in text.trial_lines(table)]
    tables.print(terminal_table("where pretraining ended", ends))
    hidden = len(whole.rows) - len(table.rows)
    told = [f"the best {BEST} of {len(whole.rows)} trials; table.md has them all"] if hidden else []
    told += [f"{text.show_counts(whole)}; {text.show_total(whole)}"]
    told += [f"failed: {line}" for line in text.failures(whole)] + [f"note: {line}" for line in text.all_notes(whole)]
    for line in told:
        console.print(line, highlight=False, markup=False)


def task_table(table: Table, task: Task) -> Terminal:
    """The main metric alone: the page and table.md have them all."""
    from paramcrop.report.text import task_lines

    lines = [[line[0], line[1].replace(" (paper", "\n(paper"), *line[-2:]] for line in task_lines(table, task)]
    lines = [[label, value, difference.replace(": ", "\n"), n] for label, value, difference, n in lines]
    return terminal_table(task.name, lines)


def terminal_table(title: str, lines: Sequence[Sequence[str]]) -> Terminal:
    terminal = Terminal(title=escape(title), title_justify="left")
    for i, name in enumerate(lines[0]):
        terminal.add_column(escape(name), justify="right" if i else "left", overflow="fold")
    for line in lines[1:]:
        terminal.add_row(*map(escape, line))
    return terminal


if __name__ == "__main__":
    run("report")
