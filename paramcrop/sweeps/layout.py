"""The schema of a table of the paper: its rows, its columns, and what fills each cell."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Cell(BaseModel):
    """One number of a table.

    Attributes:
        variant: label of the trial that fills the cell; None for a method that is only cited.
        task: DATASET/PROTOCOL. metric: a metric of that task.
        paper: the paper's value, in %; None if it prints none.
    """

    model_config = STRICT

    variant: str | None = None
    task: str
    metric: str
    paper: float | None = None


class Line(BaseModel):
    """One row of a table, with one cell per column."""

    model_config = STRICT

    label: str
    cells: tuple[Cell, ...] = ()


class Layout(BaseModel):
    """A table of the paper.

    Attributes:
        name: such as "table1".
        preset: the preset with which the cells' settings are the paper's own.
        columns: headings. lines: rows, in the paper's order. notes: remarks about the table.
        sizes: row -> the parameters and operations that the paper prints for it (Table 7).
        stand_ins: dataset of the paper -> the dataset used in its place.
    """

    model_config = STRICT

    name: str
    preset: str
    columns: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    notes: tuple[str, ...] = ()
    sizes: dict[str, tuple[str, str]] = Field(default_factory=dict)
    stand_ins: dict[str, str] = Field(default_factory=dict)
