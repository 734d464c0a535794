"""search_spaces/paper.yaml: every table and figure of the paper, by name; its rows' settings and printed numbers."""

from __future__ import annotations

from functools import cache
from itertools import zip_longest
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from paramcrop.sweeps.space import FOLDER, Cell

FILE = FOLDER / "paper.yaml"
STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Column(BaseModel):
    """A heading's cells: DATASET/PROTOCOL METRIC, with {} for the row's protocol, and settings besides the row's."""

    model_config = STRICT

    cell: str
    settings: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"cell": value} if isinstance(value, str) else value


class Row(BaseModel):
    """One row; without ``settings`` it is another's, cited. ``paper`` has a number a column."""

    model_config = STRICT

    label: str
    settings: tuple[str, ...] | None = None
    protocol: str = "finetune"
    paper: tuple[float, ...] = ()


class Entry(BaseModel):
    """A table or figure: rows under columns, or params that are swept, or a space of its own file."""

    model_config = STRICT

    question: str = ""
    space: str = ""  # file of search_spaces/
    columns: str | dict[str, Column] = {}
    rows: tuple[Row, ...] = ()
    params: dict[str, Any] = {}
    set: dict[str, Any] = {}
    seeds: tuple[int, ...] = ()
    show: Literal["table", "curve", "crops"] = "table"
    frame: Literal["crop", "video"] = "crop"
    videos: tuple[int, ...] = (0,)
    preset: str = ""  # instead of the paper's
    pretrained_on: str = ""  # one of the sets that are evaluated on, instead of the preset's
    demo_epochs: float = 1.0  # times the demo preset's, for a question about lengths: the cap of steps ends them alike
    sizes: dict[str, tuple[str, str]] = {}  # row -> what is printed of parameters and arithmetic
    besides: tuple[str, ...] = ()  # tasks that fill no cell
    unnamed: bool = False  # the copy of the paper at hand does not name the methods of cited rows
    notes: tuple[str, ...] = ()


class Demo(BaseModel):
    """What differs with the demo preset."""

    model_config = STRICT

    set: dict[str, Any]
    seeds: tuple[int, ...]
    evaluate: dict[str, Any]


class Paper(BaseModel):
    """The whole file."""

    model_config = STRICT

    preset: str
    settings: dict[str, dict[str, Any]]
    columns: dict[str, dict[str, Column]]
    demo: Demo
    entries: dict[str, Entry]

    def columns_of(self, entry: Entry) -> dict[str, Column]:
        return self.columns[entry.columns] if isinstance(entry.columns, str) else entry.columns

    def merged(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The settings that names stand for, taken together."""
        return {key: value for name in names for key, value in self.settings[name].items()}


@cache
def read_paper() -> Paper | None:
    """None: the file is not there, because the package is not in its clone."""
    return Paper.model_validate(yaml.safe_load(FILE.read_text())) if FILE.exists() else None


def names_of(row: Row, column: Column) -> tuple[str, ...] | None:
    """The settings of a cell, by name; None: it is cited."""
    return None if row.settings is None else (*row.settings, *column.settings)


def cell_of(row: Row, column: Column, paper: float | None, variant: str | None = None) -> Cell:
    task, _, metric = column.cell.format(row.protocol).partition(" ")
    return Cell(variant=variant, task=task, metric=metric, paper=paper)


def cells(paper: Paper, entry: Entry) -> list[list[tuple[tuple[str, ...] | None, Cell]]]:
    """A line a row: the settings' names and the cell of each column."""
    columns = list(paper.columns_of(entry).values())
    return [
        [(names_of(row, column), cell_of(row, column, value)) for column, value in zip_longest(columns, row.paper)]
        for row in entry.rows
    ]
