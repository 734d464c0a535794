"""A table as the paper prints it: which trial, task and metric fill each cell, and what the paper has there."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Cell(BaseModel):
    """One number.

    Attributes:
        variant: label of the trial that fills it; none: nothing of ours does. task: DATASET/PROTOCOL. metric: of it.
        paper: what the paper prints, in %; none: nothing.
    """

    model_config = STRICT

    variant: str | None = None
    task: str
    metric: str
    paper: float | None = None


class Line(BaseModel):
    """One row, a cell a column."""

    model_config = STRICT

    label: str
    cells: tuple[Cell, ...] = ()


class Layout(BaseModel):
    """A table of the paper.

    Attributes:
        name: such as "table1". preset: at which its cells' settings are the paper's own.
        columns: headings. lines: in the paper's order. notes: what is odd about it.
        sizes: line -> the parameters and the arithmetic that the paper prints for it (Table 7).
        stand_ins: the paper's set -> the set that stands in for it here.
    """

    model_config = STRICT

    name: str
    preset: str
    columns: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    notes: tuple[str, ...] = ()
    sizes: dict[str, tuple[str, str]] = Field(default_factory=dict)
    stand_ins: dict[str, str] = Field(default_factory=dict)
