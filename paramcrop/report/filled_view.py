"""A filled table of the paper as texts, for pages and Markdown."""

from __future__ import annotations

import re
from typing import NamedTuple

from paramcrop.report.paper_table import Filled, fill, scale_of
from paramcrop.report.table import Table
from paramcrop.report.text import ERRORS, show_mean
from paramcrop.sweeps.layout import Layout
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import config_of, grid, make_trial

APART = "†"  # beside a number that must not be compared with the paper's
NOT_YET = "not run yet"


class CellView(NamedTuple):
    """ours, the paper's (empty: none), and what is to be said of the two; ``apart``: they must not be compared."""

    ours: str
    paper: str
    said: str
    apart: bool


class LineView(NamedTuple):
    label: str
    cited: bool
    cells: tuple[CellView, ...]


class View(NamedTuple):
    """``title`` as in "Table 1"; ``notes`` say at which scale ours is, and what is odd about the paper's."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[LineView, ...]
    notes: tuple[str, ...]


def view(table: Table) -> View:
    """Without lines, if the space has no table of the paper's."""
    layout, lines = table.space.layout, fill(table)
    if layout is None or not lines:
        return View("", (), (), ())
    sizes = size_cells(table.space, layout) if layout.sizes else {}
    columns = (*(("parameters", "arithmetic") if sizes else ()), *layout.columns)
    views = tuple(
        LineView(line.label, line.cited, (*sizes.get(line.label, ()), *(_cell(cell) for cell in line.cells)))
        for line in lines
    )
    cells = [cell for line in lines for cell in line.cells]
    return View(title(layout.name), columns, views, tuple(_notes(table, layout, cells)))


def title(name: str) -> str:
    """ "table1" -> "Table 1"."""
    return re.sub(r"([a-z])(\d)", r"\1 \2", name).capitalize()


def show_both(cell: CellView) -> str:
    """ "12.5 [4.1] † (56.0)", "59.7 ± 0.8 [1.3] agrees (59.9)", "(30.5)"."""
    ours = " ".join(filter(None, (cell.ours, APART if cell.apart else "", cell.said)))
    return " ".join(filter(None, (ours, f"({cell.paper})" if cell.paper else ""))) or "-"


def _cell(cell: Filled) -> CellView:
    paper = "" if cell.paper is None else f"{100 * cell.paper:.1f}"
    ours = show_mean(cell.ours) if cell.ours else NOT_YET if cell.waits else ""
    said = "" if cell.agrees is None else "agrees" if cell.agrees else "differs"
    return CellView(ours, paper, said, bool(cell.apart))


def _notes(table: Table, layout: Layout, cells: list[Filled]) -> list[str]:
    had = [cell for cell in cells if cell.ours]
    reasons = dict.fromkeys(reason for cell in had for reason in cell.apart)
    lines = [f"ours was pretrained on {scale}" for scale in scale_of(table)]
    if reasons:
        lines.append(f"{APART} not to be compared with the paper's: {'; '.join(reasons)}")
    if any(cell.agrees is not None for cell in had):
        lines.append("agrees: the paper's value lies within the interval over seeds and 1.96 errors of both test sets")
    lines += [f"ours: {ERRORS}"] if had else []
    if layout.sizes:
        lines.append(
            "parameters: backbone and head, then the croppers'; arithmetic: FLOP of the backbone at 32 x 224 x 224, "
            "then multiply-adds of cutting a view of 16 x 112 x 112"
        )
    return [*lines, *layout.notes]


def size_cells(space: Space, layout: Layout) -> dict[str, tuple[CellView, ...]]:
    """Line -> its parameters and arithmetic, counted at the paper's preset; imports torch."""
    from paramcrop.training.build import build_backbone
    from paramcrop.training.model_size import crop_macs, macs, model_size

    papers_own, found = space.model_copy(update={"preset": layout.preset, "set": {}}), {}
    for values in grid(space):
        trial = make_trial(space, values)
        config = config_of(papers_own, trial, space.seeds[0])
        size = model_size(config)
        if size.croppers:
            ours = (_more(size.croppers), f"+{crop_macs(config) / 1e9:.4f}G")
        else:
            flops = 2 * macs(build_backbone(config), (32, 224, 224))
            ours = (f"{(size.backbone + size.head) / 1e6:.2f}M", f"{flops / 1e9:.1f}G")
        printed = layout.sizes.get(trial.label, ("", ""))
        found[trial.label] = tuple(CellView(a, b, "", False) for a, b in zip(ours, printed, strict=True))
    return found


def _more(parameters: int) -> str:
    return f"+{parameters}" if parameters < 1000 else f"+{parameters / 1e6:.4f}M"
