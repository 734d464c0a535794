"""A table of the paper, ours beside the paper's in each cell, and why the two may not be compared where they may not.

They may where the pretraining (videos, settings), the set evaluated on and the protocol are the paper's own.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

from paramcrop.errors import ConfigError
from paramcrop.evaluation.protocols import find_protocol
from paramcrop.evaluation.statistics import Mean, interval_half, share_error
from paramcrop.report.facts import RunFacts
from paramcrop.report.table import Row, Table, task_of
from paramcrop.report.text import ERRORS, show_mean
from paramcrop.settings.identity import flatten, identity
from paramcrop.settings.presets import make_config
from paramcrop.sweeps.space import Cell, Layout, Space
from paramcrop.sweeps.trials import config_of, grid, make_trial

CLASSES = {"kinetics": 400, "ucf101": 101, "hmdb51": 51}  # of the paper's sets
SPLITS = {"ucf101": 3, "hmdb51": 3}  # official test splits, over which the paper averages


class Verdict(NamedTuple):
    """What our number says of the paper's.

    Attributes:
        differs: the paper's lies outside the interval of ours; else the two are not told apart.
        also: other rows of the paper's column that ours is not told apart from either, with their numbers in %.
        stands: what stands for more than it is, such as "one seed".
    """

    differs: bool
    also: tuple[str, ...] = ()
    stands: tuple[str, ...] = ()


class Filled(NamedTuple):
    """One cell; numbers in [0, 1].

    Attributes:
        ours: None: nothing fills it, or not yet. waits: something is to fill it. paper: None: nothing is printed.
        apart: why ours must not be compared with the paper's; empty: it may be.
        verdict: None: they may not be compared.
    """

    ours: Mean | None
    waits: bool
    paper: float | None
    apart: tuple[str, ...] = ()
    verdict: Verdict | None = None


class FilledLine(NamedTuple):
    """One row; ``cited`` ones are others' and have the paper's numbers alone."""

    label: str
    cited: bool
    cells: tuple[Filled, ...]


def fill(table: Table) -> list[FilledLine]:
    """Of a table whose space has a layout, line by line."""
    layout, rows = table.space.layout, {row.record.label: row for row in table.rows}
    if layout is None:
        return []
    lines = []
    for line in layout.lines:
        cited = all(cell.variant is None for cell in line.cells)
        cells = tuple(_fill(table.space, layout, cell, rows.get(cell.variant or "")) for cell in line.cells)
        lines.append(FilledLine(line.label, cited, cells))
    return lines


def _fill(space: Space, layout: Layout, cell: Cell, row: Row | None) -> Filled:
    paper = None if cell.paper is None else cell.paper / 100
    if row is None or (found := _result(row, cell)) is None:
        return Filled(None, cell.variant is not None, paper)
    ours = row.cells[task_of(found), cell.metric].mean
    apart = tuple(dict.fromkeys(_apart(space, layout, cell, row, found)))
    compared = None if apart or paper is None else verdict(layout, cell, ours, paper)
    return Filled(ours, True, paper, apart, compared)


def verdict(layout: Layout, cell: Cell, ours: Mean, paper: float) -> Verdict:
    """Compare a cell with the paper's number, and with every other number of the paper's column."""
    others = [(line.label, other) for line in layout.lines for other in line.cells if other is not cell]
    column = [(label, c.paper) for label, c in others if (c.task, c.metric) == (cell.task, cell.metric)]
    also = [f"{label} {value:.1f}" for label, value in column if value is not None and not differs(ours, value / 100)]
    stands = ["one seed"] if len(ours.values) == 1 else []
    stands += ["one split"] if ours.splits < SPLITS.get(cell.task.rpartition("/")[0], 1) else []
    return Verdict(differs(ours, paper), tuple(also), tuple(stands))


def _result(row: Row, cell: Cell) -> dict[str, Any] | None:
    """The first of a trial's results that belongs into a cell."""
    dataset, _, short = cell.task.rpartition("/")
    name = find_protocol(short).name
    fits = (r for r in row.results if r["numbers"]["name"] == name and r["dataset"] == dataset)
    return next((r for r in fits if (task_of(r), cell.metric) in row.cells), None)


def differs(ours: Mean, paper: float) -> bool:
    """Whether the paper's value lies outside the 95 % interval of ours.

    The interval counts both test sets' videos (as many for the paper as for us) and, from two seeds on, our seeds and
    one seed of the paper's, which does not say how many it ran.
    """
    videos = ours.test_error**2 + share_error(paper, ours.videos) ** 2
    variances = [(videos, ours.videos - 1)]
    if (seeds := len(ours.values)) > 1:
        variances.append((statistics.variance(ours.values) * (1 + 1 / seeds), seeds - 1))
    half = interval_half(variances)
    return half is not None and abs(ours.value - paper) > half


def _apart(space: Space, layout: Layout, cell: Cell, row: Row, result: dict[str, Any]) -> Iterator[str]:
    """Why not, in a few words each."""
    for run in row.runs:
        yield from _pretraining(space, layout, row, run)
    dataset = cell.task.rpartition("/")[0]
    stands_for = [name for name, stand_in in layout.stand_ins.items() if stand_in == dataset]
    if stands_for:
        yield f"{dataset} videos stand in for {' and '.join(stands_for)}"
    elif (result.get("source"), len(result["classes"])) != (dataset, CLASSES.get(dataset)):
        yield f"evaluated on {result.get('source') or 'a set'} of {len(result['classes'])} classes"
    if result["protocol"] != result["numbers"]["name"]:
        yield f"{result['numbers']['name']} with other numbers"


def _pretraining(space: Space, layout: Layout, row: Row, run: RunFacts) -> Iterator[str]:
    wanted = space.pretrained_on or "kinetics"
    if (run.videos.get("dataset"), run.videos.get("classes")) != (wanted, CLASSES.get(wanted)):
        yield f"pretrained on {told_videos(run)}"
    if changed := settings_apart(space, layout, row, run):
        yield f"{len(changed)} settings are not the paper's, such as {', '.join(changed[:3])}"


def settings_apart(space: Space, layout: Layout, row: Row, run: RunFacts) -> list[str]:
    """Dotted keys of a run's settings that its row does not have at the paper's preset."""
    papers_own = space.model_copy(update={"preset": layout.preset, "set": {}})
    try:
        expected = identity(config_of(papers_own, make_trial(space, row.record.values), run.seed), "")["settings"]
        found = identity(make_config(flatten(run.settings)), "")["settings"]
    except ConfigError:
        return ["all"]
    both = expected.keys() | found.keys()
    return sorted(k for k in both - {"data.split"} if expected.get(k) != found.get(k))


def told_videos(run: RunFacts) -> str:
    """ "256 synthetic videos"."""
    return f"{run.videos.get('videos', 'unknown')} {run.videos.get('dataset') or 'unnamed'} videos"


def scale_of(table: Table) -> list[str]:
    """At which scale ours was pretrained, a line for each that there is: videos, epochs, batch, views."""
    return list(dict.fromkeys(_scale(run) for row in table.rows for run in row.runs if run.settings))


def _scale(run: RunFacts) -> str:
    train, cropper = run.settings["train"], run.settings["cropper"]
    length = f"{train['epochs']} epochs" + (f", at most {n} steps" if (n := train["max_steps"]) else "")
    view = f"{cropper['frames']} x {cropper['size']} x {cropper['size']}"
    return f"{told_videos(run)}, {length} of {train['global_batch']} videos, views of {view}"


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
    """ "12.5 [4.1] † (56.0)", "59.7 ± 0.8 [1.3] not told apart (59.9)", "(30.5)"."""
    ours = " ".join(filter(None, (cell.ours, APART if cell.apart else "", cell.said)))
    return " ".join(filter(None, (ours, f"({cell.paper})" if cell.paper else ""))) or "-"


def _cell(cell: Filled) -> CellView:
    paper = "" if cell.paper is None else f"{100 * cell.paper:.1f}"
    ours = show_mean(cell.ours) if cell.ours else NOT_YET if cell.waits else ""
    return CellView(ours, paper, show_verdict(cell.verdict) if cell.verdict else "", bool(cell.apart))


def show_verdict(found: Verdict) -> str:
    """ "not told apart (nor from Hard 56.0)", "differs (one seed)"."""
    parts = [f"nor from {', '.join(found.also)}"] if found.also and not found.differs else []
    parts += [" and ".join(found.stands)] if found.stands else []
    return ("differs" if found.differs else "not told apart") + (f" ({'; '.join(parts)})" if parts else "")


def _notes(table: Table, layout: Layout, cells: list[Filled]) -> list[str]:
    had = [cell for cell in cells if cell.ours]
    reasons = dict.fromkeys(reason for cell in had for reason in cell.apart)
    lines = [f"ours was pretrained on {scale}" for scale in scale_of(table)]
    if reasons:
        lines.append(f"{APART} not to be compared with the paper's: {'; '.join(reasons)}")
    if any(cell.verdict for cell in had):
        lines.append(
            "not told apart: the paper's value lies within the 95 % interval of ours, over seeds and both test sets' "
            "videos; that is no agreement, and the other rows named lie within it as well"
        )
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
