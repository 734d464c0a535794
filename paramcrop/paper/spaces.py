"""A table or figure of the paper -> the space that fills it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paramcrop.evaluation.protocols import find_protocol, parameters
from paramcrop.paper.tables import Entry, Paper, Row, cell_of, cells, names_of
from paramcrop.sweeps.layout import Cell, Layout, Line
from paramcrop.sweeps.parts import Evaluate, PresetChanges
from paramcrop.sweeps.space import Space, find_space, read_space

DEMO = "demo"


def paper_space(paper: Paper, name: str) -> Space:
    """The space of an entry; its preset is the demo unless another is chosen."""
    entry = paper.entries[name]
    base = read_space(find_space(entry.space)) if entry.space else Space.model_validate(_fields(paper, entry))
    tasks = _tasks(paper, entry) if entry.columns else base.evaluate.tasks if entry.space else ()
    seeds = entry.seeds or base.seeds
    demo = base.with_preset.get(DEMO, PresetChanges())
    evaluate = Evaluate(tasks=tasks, as_pretrained=True, set=_used(paper.demo.evaluate, tasks))
    settings, own = demo.set | paper.demo.set, entry.seeds or paper.demo.seeds
    changes = PresetChanges(set=settings, seeds=own, evaluate=evaluate, epochs=entry.demo_epochs)
    changed: dict[str, Any] = {"seeds": seeds, "evaluate": base.evaluate.model_copy(update={"tasks": tasks})}
    changed |= {"with_preset": base.with_preset | {DEMO: changes}, "layout": _layout(paper, entry, name, base)}
    return base.model_copy(update=changed)


def preset_of(paper: Paper, name: str, requested: str | None) -> str | None:
    """The preset to use: an entry may have its own preset in place of the paper's main one."""
    return paper.entries[name].preset or requested if requested == paper.preset else requested


def with_stand_in(space: Space, stand_in: str) -> Space:
    """The space with ``stand_in`` for every dataset in its tasks and cells, for users without the paper's datasets."""
    assert space.layout is not None, "every space of the paper has a layout"
    sets = dict.fromkeys(t.partition("/")[0] for t in _all_tasks(space) if "/" in t)
    stand_ins = dict.fromkeys(sets, stand_in)
    lines = tuple(
        line.model_copy(update={"cells": tuple(_moved(cell, stand_ins) for cell in line.cells)})
        for line in space.layout.lines
    )
    layout = space.layout.model_copy(update={"lines": lines, "stand_ins": stand_ins})
    variants = tuple(v.model_copy(update={"tasks": _renamed(v.tasks, stand_ins), "paper": {}}) for v in space.variants)
    evaluate = space.evaluate.model_copy(update={"tasks": _renamed(space.evaluate.tasks, stand_ins)})
    return space.model_copy(update={"layout": layout, "variants": variants, "evaluate": evaluate})


def _all_tasks(space: Space) -> list[str]:
    tasks = [*space.evaluate.tasks, *(task for variant in space.variants for task in variant.tasks)]
    return [*tasks, *(cell.task for line in space.layout.lines for cell in line.cells)] if space.layout else tasks


def _moved(cell: Cell, stand_ins: Mapping[str, str]) -> Cell:
    return cell.model_copy(update={"task": _renamed((cell.task,), stand_ins)[0]})


def _renamed(tasks: tuple[str, ...], stand_ins: Mapping[str, str]) -> tuple[str, ...]:
    """DATASET/PROTOCOL texts with replaced datasets, without duplicates."""
    parts = [task.rpartition("/") for task in tasks]
    return tuple(dict.fromkeys(f"{stand_ins.get(name, name)}{slash}{protocol}" for name, slash, protocol in parts))


def _fields(paper: Paper, entry: Entry) -> dict[str, Any]:
    """The fields of a space that has no file of its own."""
    fields: dict[str, Any] = {"question": entry.question, "set": entry.set, "show": entry.show}
    fields |= {"frame": entry.frame, "videos": entry.videos, "pretrained_on": entry.pretrained_on}
    if entry.params:
        return fields | {"params": entry.params, "show": "curve"}
    return fields | {"variants": list(_variants(paper, entry).values())}


def _variants(paper: Paper, entry: Entry) -> dict[tuple[str, ...], dict[str, Any]]:
    """Names of settings -> the variant: each configuration once, with all its tasks."""
    variants: dict[tuple[str, ...], dict[str, Any]] = {}
    for row, line in zip(entry.rows, cells(paper, entry), strict=True):
        if row.settings is not None and not line:  # nothing is evaluated
            variants[row.settings] = {"label": row.label, "set": paper.merged(row.settings)}
        for names, cell in line:
            if names is None:
                continue
            label = row.label if names == row.settings else ", ".join(names)
            new = {"label": label, "set": paper.merged(names), "tasks": (), "paper": {}}
            variant = variants.setdefault(names, new)
            variant["tasks"] = tuple(dict.fromkeys((*variant["tasks"], cell.task, *entry.besides)))
            variant["paper"] |= {} if cell.paper is None else {f"{cell.task} {cell.metric}": cell.paper}
    return variants


def _tasks(paper: Paper, entry: Entry) -> tuple[str, ...]:
    """The tasks of all cells, in the order of the columns."""
    rows = entry.rows or (Row(label="", settings=()),)
    columns = paper.columns_of(entry).values()
    ours = [cell_of(row, column, None) for column in columns for row in rows if names_of(row, column) is not None]
    return tuple(dict.fromkeys((*(cell.task for cell in ours), *entry.besides)))


def _used(values: Mapping[str, Any], tasks: tuple[str, ...]) -> dict[str, Any]:
    """The protocol parameters among ``values`` that some task has."""
    known = {key for task in tasks for key in parameters(find_protocol(task.rpartition("/")[2]))}
    return {key: value for key, value in values.items() if key in known}


def _layout(paper: Paper, entry: Entry, name: str, base: Space) -> Layout:
    columns = paper.columns_of(entry)
    if entry.space:
        lines = [_line_of(variant.label, variant.paper, list(columns.values())) for variant in base.variants]
    elif entry.params:
        lines = []
    else:
        lines = _lines(paper, entry)
    return Layout(
        name=name,
        preset=entry.preset or paper.preset,
        columns=tuple(columns),
        lines=tuple(lines) if columns else (),
        notes=entry.notes,
        sizes=entry.sizes,
    )


def _lines(paper: Paper, entry: Entry) -> list[Line]:
    """The rows of the entry; each cell has the variant that fills it."""
    labels = {names: variant["label"] for names, variant in _variants(paper, entry).items()}
    lines = []
    for row, line in zip(entry.rows, cells(paper, entry), strict=True):
        unnamed = entry.unnamed and row.settings is None
        filled = [cell.model_copy(update={"variant": None if names is None else labels[names]}) for names, cell in line]
        lines.append(Line(label=row.label + (", name missing in source" if unnamed else ""), cells=tuple(filled)))
    return lines


def _line_of(label: str, printed: Mapping[str, float], columns: list[Any]) -> Line:
    """The line of a variant whose printed numbers are given by task and metric."""
    row = Row(label=label, settings=())
    cells_of_row = [cell_of(row, column, None, label) for column in columns]
    return Line(
        label=label,
        cells=tuple(c.model_copy(update={"paper": printed.get(f"{c.task} {c.metric}")}) for c in cells_of_row),
    )
