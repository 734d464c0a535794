"""Tables for terminals of any width, and for logs, which have 80 columns: rows keep their names, and cells wrap."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

NAME = 20  # characters that the names of rows keep at least, if they are as long


def make_table(title: str, lines: Sequence[Sequence[str]]) -> Table:
    """A table of a line of heads and further lines; the first cell of each is its name."""
    table = Table(title=escape(title), title_justify="left")
    longest = max(len(line[0]) for line in lines)
    table.add_column(escape(lines[0][0]), overflow="fold", min_width=min(longest, NAME))
    for head in lines[0][1:]:
        table.add_column(escape(head), justify="right", overflow="fold")
    for line in lines[1:]:
        table.add_row(*map(escape, line))
    return table


def print_wrapped(table: Table, console: Console) -> None:
    """Print it in the width of ``console``, even if that wraps nothing by itself."""
    Console(file=console.file, width=console.width, force_terminal=console.is_terminal).print(table)
