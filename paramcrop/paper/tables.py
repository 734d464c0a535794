"""search_spaces/paper.yaml: all tables and figures of the paper by name, with the settings and values of their rows."""

from __future__ import annotations

from functools import cache
from itertools import zip_longest
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from paramcrop.sweeps.layout import Cell
from paramcrop.sweeps.space import FOLDER

FILE = FOLDER / "paper.yaml"
STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Column(BaseModel):
    """The cells under a heading: DATASET/PROTOCOL METRIC, with {} for the row's protocol, and additional settings."""

    model_config = STRICT

    cell: str
    settings: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"cell": value} if isinstance(value, str) else value


class Row(BaseModel):
    """One row; without ``settings`` it is cited from another paper. ``paper`` has a value per column."""

    model_config = STRICT

    label: str
    settings: tuple[str, ...] | None = None
    protocol: str = "finetune"
    paper: tuple[float, ...] = ()


class Entry(BaseModel):
    """A table or figure: rows and columns, swept params, or a space in its own file."""

    model_config = STRICT

    question: str = ""
    space: str = ""  # file in search_spaces/
    columns: str | dict[str, Column] = {}
    rows: tuple[Row, ...] = ()
    params: dict[str, Any] = {}
    set: dict[str, Any] = {}
    seeds: tuple[int, ...] = ()
    show: Literal["table", "curve", "crops"] = "table"
    frame: Literal["crop", "video"] = "crop"
    videos: tuple[int, ...] = (0,)
    preset: str = ""  # replaces the paper's main preset
    pretrained_on: str = ""  # an evaluation dataset to pretrain on instead of the preset's
    demo_epochs: float = 1.0  # factor on the demo preset's epochs; its cap of steps would hide a sweep of lengths
    sizes: dict[str, tuple[str, str]] = {}  # row -> printed parameters and arithmetic
    besides: tuple[str, ...] = ()  # additional tasks that fill no cell
    unnamed: bool = False  # our copy of the paper lacks the names of the cited methods
    notes: tuple[str, ...] = ()


class Demo(BaseModel):
    """Changes for the demo preset."""

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
        """The union of the named settings."""
        return {key: value for name in names for key, value in self.settings[name].items()}


@cache
def read_paper() -> Paper | None:
    """The tables of the paper; None: the file is missing in this installation."""
    return Paper.model_validate(yaml.safe_load(FILE.read_text())) if FILE.exists() else None


def names_of(row: Row, column: Column) -> tuple[str, ...] | None:
    """The names of a cell's settings; None: the cell is cited."""
    return None if row.settings is None else (*row.settings, *column.settings)


def cell_of(row: Row, column: Column, paper: float | None, variant: str | None = None) -> Cell:
    task, _, metric = column.cell.format(row.protocol).partition(" ")
    return Cell(variant=variant, task=task, metric=metric, paper=paper)


def cells(paper: Paper, entry: Entry) -> list[list[tuple[tuple[str, ...] | None, Cell]]]:
    """A line per row: the names of the settings and the cell for each column."""
    columns = list(paper.columns_of(entry).values())
    return [
        [(names_of(row, column), cell_of(row, column, value)) for column, value in zip_longest(columns, row.paper)]
        for row in entry.rows
    ]
