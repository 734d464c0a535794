"""A table of the paper with our results beside the paper's, and the reasons why some are not comparable.

Two results are comparable if the pretraining videos and their pixels, all settings, the evaluation dataset and the
protocol are the paper's own.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

from paramcrop.errors import ConfigError
from paramcrop.evaluation.protocols import find_protocol
from paramcrop.evaluation.statistics import Mean, interval_half, share_error
from paramcrop.paper.scale import CLASSES, SPLITS, enlarged_frames, missing_videos, pretraining_frames
from paramcrop.report.facts import RunFacts
from paramcrop.report.table import Row, Table, task_of
from paramcrop.report.text import ERRORS, show_mean
from paramcrop.settings.identity import identity, recorded
from paramcrop.settings.presets import make_config
from paramcrop.sweeps.layout import Cell, Layout
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import config_of, grid, make_trial


class Verdict(NamedTuple):
    """Comparison of our result with the paper's.

    Attributes:
        differs: whether the paper's value lies outside the interval of ours.
        also: other rows of the paper's column that lie within the interval, with their values in %.
        limits: limits of our result, such as "one seed".
    """

    differs: bool
    also: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


class Filled(NamedTuple):
    """One cell; numbers in [0, 1].

    Attributes:
        ours: our result; None: there is none, or not yet.
        planned: whether a trial fills the cell.
        paper: the printed value; None: nothing is printed.
        mismatches: reasons why the two are not comparable; empty: they are.
        verdict: None: they are not comparable.
    """

    ours: Mean | None
    planned: bool
    paper: float | None
    mismatches: tuple[str, ...] = ()
    verdict: Verdict | None = None


class FilledLine(NamedTuple):
    """One row; a ``cited`` row is another paper's method and only has printed values."""

    label: str
    cited: bool
    cells: tuple[Filled, ...]


def fill(table: Table) -> list[FilledLine]:
    """The lines of a table whose space has a layout; empty if it has none."""
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
    mismatches = tuple(dict.fromkeys(_mismatches(space, layout, cell, row, found)))
    compared = None if mismatches or paper is None else verdict(layout, cell, ours, paper)
    return Filled(ours, True, paper, mismatches, compared)


def verdict(layout: Layout, cell: Cell, ours: Mean, paper: float) -> Verdict:
    """Compare a cell with the paper's value, and with all other values in the paper's column."""
    others = [(line.label, other) for line in layout.lines for other in line.cells if other is not cell]
    column = [(label, c.paper) for label, c in others if (c.task, c.metric) == (cell.task, cell.metric)]
    also = [f"{label} {value:.1f}" for label, value in column if value is not None and not differs(ours, value / 100)]
    limits = ["one seed"] if len(ours.values) == 1 else []
    limits += ["one split"] if ours.splits < SPLITS.get(cell.task.rpartition("/")[0], 1) else []
    return Verdict(differs(ours, paper), tuple(also), tuple(limits))


def _result(row: Row, cell: Cell) -> dict[str, Any] | None:
    """The first result of a trial that belongs in the cell."""
    dataset, _, short = cell.task.rpartition("/")
    name = find_protocol(short).name
    fits = (r for r in row.results if r["numbers"]["name"] == name and r["dataset"] == dataset)
    return next((r for r in fits if (task_of(r), cell.metric) in row.cells), None)


def differs(ours: Mean, paper: float) -> bool:
    """Whether the paper's value lies outside the 95 % interval of ours.

    The interval accounts for the videos of both test sets (the paper's is taken to be as large as ours) and, from two
    seeds on, for our seeds and one seed of the paper, which does not state how many it ran.
    """
    videos = ours.test_error**2 + share_error(paper, ours.videos) ** 2
    variances = [(videos, ours.videos - 1)]
    if (seeds := len(ours.values)) > 1:
        variances.append((statistics.variance(ours.values) * (1 + 1 / seeds), seeds - 1))
    half = interval_half(variances)
    return half is not None and abs(ours.value - paper) > half


def _mismatches(space: Space, layout: Layout, cell: Cell, row: Row, result: dict[str, Any]) -> Iterator[str]:
    """The reasons why a result is not comparable with the paper's, a few words each."""
    for run in row.runs:
        yield from _pretraining(space, layout, row, run)
    dataset, numbers = cell.task.rpartition("/")[0], result["numbers"]
    evaluated: dict[str, Any] = result.get("set", {})  # older results do not have it
    stands_for = [name for name, stand_in in layout.stand_ins.items() if stand_in == dataset]
    if stands_for:
        yield f"{dataset} videos stand in for {' and '.join(stands_for)}"
    elif (result.get("source"), len(result["classes"])) != (dataset, CLASSES.get(dataset)):
        yield f"evaluated on {result.get('source') or 'a dataset'} with {len(result['classes'])} classes"
    else:
        mean = row.cells[task_of(result), cell.metric].mean
        unread = [f"{mean.n} of {mean.of} test videos"] if mean.n < mean.of else []
        missing = list(missing_videos(dataset, None, evaluated.get("videos"))) or unread
        yield from (f"evaluated on {text}" for text in missing)
    if result["protocol"] != numbers["name"]:
        yield f"{numbers['name']} with other parameters"
    yield from (f"evaluated on {text}" for text in enlarged_frames(evaluated, numbers["box"], numbers["size"]))


def _pretraining(space: Space, layout: Layout, row: Row, run: RunFacts) -> Iterator[str]:
    expected = space.pretrained_on or "kinetics"
    if (run.videos.get("dataset"), run.videos.get("classes")) != (expected, CLASSES.get(expected)):
        yield f"pretrained on {describe_videos(run)}"
    else:
        missing = missing_videos(expected, run.split, run.videos.get("videos"))
        yield from (f"pretrained on {text}" for text in missing)
    yield from (f"pretrained on {text}" for text in pretraining_frames(run.videos, run.settings))
    if changed := changed_settings(space, layout, row, run):
        count = "1 setting differs" if len(changed) == 1 else f"{len(changed)} settings differ"
        yield f"{count} from the paper's ({', '.join(changed[:3])}{', …' if len(changed) > 3 else ''})"


def changed_settings(space: Space, layout: Layout, row: Row, run: RunFacts) -> list[str]:
    """Dotted keys of a run's settings that differ from its row at the paper's preset."""
    papers_own = space.model_copy(update={"preset": layout.preset, "set": {}})
    try:
        expected = identity(config_of(papers_own, make_trial(space, row.record.values), run.seed), "")["settings"]
        found = identity(make_config(recorded(run.settings)), "")["settings"]
    except ConfigError:
        return ["all"]
    both = expected.keys() | found.keys()
    return sorted(k for k in both - {"data.split"} if expected.get(k) != found.get(k))


def describe_videos(run: RunFacts) -> str:
    """ "256 synthetic videos"."""
    return f"{run.videos.get('videos', 'unknown')} {run.videos.get('dataset') or 'unnamed'} videos"


def scale_of(table: Table) -> list[str]:
    """The different scales of our pretraining runs, one line each: videos, epochs, batch, views."""
    return list(dict.fromkeys(_scale(run) for row in table.rows for run in row.runs if run.settings))


def _scale(run: RunFacts) -> str:
    train, cropper = run.settings["train"], run.settings["cropper"]
    length = f"{train['epochs']} epochs" + (f", at most {n} steps" if (n := train["max_steps"]) else "")
    view = f"{cropper['frames']} x {cropper['size']} x {cropper['size']}"
    return f"{describe_videos(run)}, {length} of {train['global_batch']} videos, views of {view}"


INCOMPARABLE = "†"  # marks a result that is not comparable with the paper's
NOT_YET = "not run yet"


class CellView(NamedTuple):
    """Our result and the paper's (empty: none), the verdict on them, and whether they are not comparable."""

    ours: str
    paper: str
    verdict: str
    incomparable: bool


class LineView(NamedTuple):
    label: str
    cited: bool
    cells: tuple[CellView, ...]


class View(NamedTuple):
    """A table as text: ``title`` is such as "Table 1"; ``notes`` give our scale and inconsistencies of the paper."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[LineView, ...]
    notes: tuple[str, ...]


def view(table: Table) -> View:
    """The view of a table; it has no lines if the space is not a table of the paper."""
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
    ours = " ".join(filter(None, (cell.ours, INCOMPARABLE if cell.incomparable else "", cell.verdict)))
    return " ".join(filter(None, (ours, f"({cell.paper})" if cell.paper else ""))) or "-"


def _cell(cell: Filled) -> CellView:
    paper = "" if cell.paper is None else f"{100 * cell.paper:.1f}"
    ours = show_mean(cell.ours) if cell.ours else NOT_YET if cell.planned else ""
    return CellView(ours, paper, show_verdict(cell.verdict) if cell.verdict else "", bool(cell.mismatches))


def show_verdict(found: Verdict) -> str:
    """ "not told apart (nor from Hard 56.0)", "differs (one seed)"."""
    parts = [f"nor from {', '.join(found.also)}"] if found.also and not found.differs else []
    parts += [" and ".join(found.limits)] if found.limits else []
    return ("differs" if found.differs else "not told apart") + (f" ({'; '.join(parts)})" if parts else "")


def _notes(table: Table, layout: Layout, cells: list[Filled]) -> list[str]:
    filled = [cell for cell in cells if cell.ours]
    reasons = dict.fromkeys(reason for cell in filled for reason in cell.mismatches)
    lines = [f"our runs were pretrained on {scale}" for scale in scale_of(table)]
    if reasons:
        lines.append(f"{INCOMPARABLE} not comparable with the paper's: {'; '.join(reasons)}")
    if any(cell.verdict for cell in filled):
        lines.append(
            "not told apart: the paper's value lies within the 95 % interval of ours, over seeds and the "
            "videos of both test sets; this does not show that they agree, and the other rows named lie within it too"
        )
    lines += [f"ours: {ERRORS}"] if filled else []
    if layout.sizes:
        lines.append(
            "parameters: backbone and head, then the croppers; arithmetic: FLOP of the backbone at 32 x 224 x 224, "
            "then multiply-accumulates of cropping a view of 16 x 112 x 112"
        )
    return [*lines, *layout.notes]


def size_cells(space: Space, layout: Layout) -> dict[str, tuple[CellView, ...]]:
    """Line -> its parameters and arithmetic at the paper's preset; imports torch."""
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
