"""The table, page and pictures of a sweep: `paramcrop report [--sweep NAME_OR_FOLDER ...]`. Needs no Ray.

Without arguments: the newest sweep. The sweep may still be running: the report shows the results so far and lists what
is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group

from paramcrop.cli import run
from paramcrop.errors import ConfigError, DataError
from paramcrop.storage.find import copy_of
from paramcrop.storage.mirror import mirror_at
from paramcrop.storage.runs import home
from ray_jobs.options import EXIT_CODES, Parser
from ray_jobs.terminal import make_table

if TYPE_CHECKING:
    from paramcrop.report.table import Table, Task

FILE = "space.yaml"
BEST = 10  # trials of a search to print in the terminal


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
            reason = f"{error.filename2 or error.filename}: {error.strerror}"
            raise ConfigError(f"a sweep's folder must be writable: {reason}") from None
        place = mirror_at(folder)
        names = [str(file.relative_to(folder)) for file in files]
        place.send(*names)
        for name in names:
            console.print(f"  {place}/{name}", highlight=False, markup=False)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("paramcrop report", description=__doc__, epilog=EXIT_CODES)
    text = "folders or URIs of sweeps, or their names below sweeps/ (default: the newest)"
    parser.add_argument("--sweep", nargs="+", metavar="SWEEP", help=text)
    parser.add_argument("--dry-run", action="store_true", help="print the table, then exit")
    return parser.parse_args(argv)


def find_sweeps(arguments: argparse.Namespace) -> list[Path]:
    """The folders of the sweeps to report on.

    Raises:
        DataError: a sweep does not exist, or there is none at all.
    """
    sweeps = home() / "sweeps"
    if arguments.sweep is None:
        found = [path.parent for path in sweeps.glob(f"*/{FILE}")]
        if not found:
            raise DataError(f"--sweep is needed, because {sweeps} has no sweep; `paramcrop sweep` makes one")
        return [max(found, key=touched)]
    return [find_sweep(name, sweeps) for name in arguments.sweep]


def find_sweep(name: str, sweeps: Path) -> Path:
    if "://" in name:
        return copy_of(name, "report", FILE, "--sweep must be the URI of a sweep")
    places = [Path(name).expanduser().resolve(), sweeps / name]
    place = next((p for p in places if (p / FILE).is_file()), None)
    if place is None:
        raise DataError(f"--sweep must be the folder of a sweep, but neither {places[0]} nor {places[1]} is one")
    return place


def touched(folder: Path) -> float:
    """The time at which its space or one of its trial records was last written."""
    return max(path.stat().st_mtime for path in (folder / FILE, *(folder / "trials").glob("*.json")))


def print_table(table: Table, console: Console) -> None:
    """Print the main metric of each task, then how the trials ended, what failed, and notes for the reader."""
    from paramcrop.report import text

    complete = table
    if table.space.search != "grid":
        table = table._replace(rows=table.rows[:BEST])
    console.print(table.space.question, highlight=False, markup=False)
    for task in table.tasks:
        console.print(task_table(table, task), soft_wrap=False)
    if settings := text.setting_lines(table):
        heads = [key.rpartition(".")[2] for key in settings[0]]
        console.print(make_table("settings", [heads, *settings[1:]]), soft_wrap=False)
    ends = [[line[0], line[1].partition(":")[0], *line[3:6]] for line in text.trial_lines(table)]
    console.print(make_table("where pretraining ended", ends), soft_wrap=False)
    hidden = len(complete.rows) - len(table.rows)
    lines = [f"the best {BEST} of {len(complete.rows)} trials; table.md has all of them"] if hidden else []
    lines += [f"{text.show_counts(complete)}; {text.show_total(complete)}"]
    lines += [f"failed: {line}" for line in text.failures(complete)]
    lines += [f"note: {line}" for line in text.all_notes(complete)]
    for line in lines:
        console.print(line, highlight=False, markup=False)


def task_table(table: Table, task: Task) -> Group:
    """The main metric only; the page and table.md have all metrics."""
    from paramcrop.report.text import task_lines

    lines = [[line[0], line[1].replace(" (paper", "\n(paper"), *line[-2:]] for line in task_lines(table, task)]
    lines = [[label, value, difference.replace(": ", "\n"), n] for label, value, difference, n in lines]
    return make_table(task.name, lines)


if __name__ == "__main__":
    run("report")
