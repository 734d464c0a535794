"""The report of a sweep in its folder: results.parquet, table.md, index.html and the pictures."""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from paramcrop.errors import DataError
from paramcrop.report import text
from paramcrop.report.crop_pictures import animate_crops
from paramcrop.report.figures import Picture, draw
from paramcrop.report.interactive.style import script
from paramcrop.report.paper_table import View, scale_of, show_both, title, view
from paramcrop.report.table import Table, make_table, task_of, tidy_rows
from paramcrop.settings.explain import show
from paramcrop.storage.files import atomic_write
from paramcrop.storage.mirror import mirror_at
from paramcrop.storage.owner import is_held
from paramcrop.sweeps.record import UNFINISHED, fetch_runs, read_records
from paramcrop.sweeps.space import Space, read_space
from paramcrop.sweeps.values import is_number

TEMPLATE = "page.html.j2"
RELOAD = 30  # seconds after which the page of a running sweep loads itself anew
FILMS = 6  # trials whose crops are shown as films; one takes about 100 kB
TEXT, WHOLE, REAL = pa.string(), pa.int64(), pa.float64()
COLUMNS = {
    **dict.fromkeys(("trial", "label", "state", "why", "task", "dataset", "protocol", "metric"), TEXT),
    **{"value": REAL, "n": WHOLE, "of": WHOLE, "seed": WHOLE, "evaluation_seed": WHOLE, "train": TEXT, "test": TEXT},
    **dict.fromkeys(("run", "run_id", "run_commit", "eval_id", "commit"), TEXT),
}
MARKDOWN = re.compile(r"([\\`*|<])")


def read_table(folder: Path) -> Table:
    """The table of a sweep's folder in its current state. A running trial without a live sweep counts as interrupted.

    Raises:
        ConfigError: space.yaml is missing or invalid.
    """
    records = read_records(folder)
    fetch_runs(records)
    if not is_held(mirror_at(folder)):  # a sweep that was killed could not update its records
        records = [replace(r, state="interrupted", doing="") if r.state in UNFINISHED else r for r in records]
    return make_table(read_space(folder / "space.yaml"), records)


def write_report(folder: Path) -> list[Path]:
    """Write every file atomically -> the files, the page first.

    Raises:
        ConfigError: see ``read_table``.
        OSError: the folder is not writable.
    """
    table = read_table(folder)
    pictures = draw(table, folder)
    page, markdown, parquet = (folder / name for name in ("index.html", "table.md", "results.parquet"))
    with atomic_write(parquet) as part:
        pq.write_table(arrow_table(tidy_rows(table)), part)
    with atomic_write(markdown) as part:
        part.write_text(make_markdown(table))
    with atomic_write(page) as part:
        part.write_text(make_page(table, folder, pictures))
    return [page, markdown, parquet, *(picture.file for picture in pictures)]


def arrow_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """The tidy rows, with a column for each swept setting: numbers, or texts if some values are not numbers."""
    columns = {name: pa.array([row.get(name) for row in rows], kind) for name, kind in COLUMNS.items()}
    for name in dict.fromkeys(name for row in rows for name in row if name not in COLUMNS):
        values = [row.get(name) for row in rows]
        if all(map(is_number, values)):
            columns[name] = pa.array(values, REAL)
        else:
            columns[name] = pa.array([None if value is None else show(value) for value in values], TEXT)
    return pa.table(columns)


def make_markdown(table: Table) -> str:
    """The tables and the notes."""
    parts = [f"# {plain(table.space.question)}", f"{text.show_counts(table)}. {plain(_setup(table))}"]
    parts += markdown_view(view(table), 2)
    for task in table.tasks:
        parts += [f"## {plain(task.name)}", _markdown(text.task_lines(table, task))]
    if settings := text.setting_lines(table):
        parts += ["## Settings", _markdown(settings)]
    parts += ["## Pretraining", _markdown(text.trial_lines(table)), f"Total: {text.show_total(table)}."]
    lists = {"Failures": text.failures(table), "Notes": text.all_notes(table)}
    for heading, lines in lists.items():
        parts += [f"## {heading}", "\n".join(f"- {plain(line)}" for line in lines)] if lines else []
    return "\n\n".join(parts) + "\n"


def markdown_view(filled: View, level: int) -> list[str]:
    """The paper's table under a heading of ``level``; empty if there is none."""
    if not filled.lines:
        return []
    lines = [["", *filled.columns], *([line.label, *map(show_both, line.cells)] for line in filled.lines)]
    notes = "\n".join(f"- {plain(note)}" for note in filled.notes)
    return [f"{'#' * level} {filled.title}: our results, and the paper's in brackets", _markdown(lines), notes]


def _setup(table: Table) -> str:
    s = table.space
    seeds, tasks = ", ".join(map(str, s.seeds)), ", ".join(s.tasks) or "nothing"
    return f"Preset {s.preset}, seeds {seeds}, search {s.search}, evaluation: {tasks}."


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = ["| " + " | ".join(map(plain, line)) + " |" for line in lines]
    return "\n".join([head, "|" + " --- |" * len(lines[0]), *rest])


def plain(text: str) -> str:
    """Escape text for Markdown."""
    return MARKDOWN.sub(r"\\\1", " ".join(text.split())).replace("\\<", "&lt;")


def make_page(table: Table, folder: Path, pictures: Sequence[Picture]) -> str:
    """A self-contained HTML file. While the sweep runs, it shows how far it is and loads itself anew."""
    going = progress_of(table, time.time()) if is_held(mirror_at(folder)) else None
    return (
        templates()
        .get_template(TEMPLATE)
        .render(
            table=table,
            filled=view(table),
            space=table.space,
            name=folder.name,
            pictures=pictures,
            charts=script if any(picture.chart for picture in pictures) else None,
            films=films_of(table),
            pages=pages_of(table, folder),
            going=going,
            reload=RELOAD if going else 0,
            text=text,
            fixed=text.fixed_settings(table),
            request=_request(table.space),
            written=time.strftime("%Y-%m-%d %H:%M"),
        )
    )


class Progress(NamedTuple):
    """How far a running sweep is."""

    done: int
    trials: int
    text: str


def progress_of(table: Table, now: float) -> Progress | None:
    """None: every trial has ended. The end is expected from the mean duration of the trials that are done.

    Args:
        now: seconds since 1970.
    """
    records = [row.record for row in table.rows]
    left = [record for record in records if record.state in (*UNFINISHED, "interrupted")]  # those come again
    trials = len(records) if table.space.search == "grid" else max(len(records), table.space.samples or 0)
    done = len(records) - len(left)
    if done == trials:
        return None
    taken = [record.seconds for record in records if record.state == "done" and record.seconds]
    text, running = f"{done} of {trials} trials have ended", sum(record.state == "running" for record in left)
    if taken and running:
        seconds = sum(taken) / len(taken) * (trials - done) / running
        text += time.strftime("; the last one should end about %Y-%m-%d %H:%M", time.localtime(now + seconds))
    return Progress(done, trials, text + ".")


def films_of(table: Table) -> dict[str, str]:
    """Label of a trial -> film of the crops of its first run, as a data URL, for the first trials that saved crops."""
    films = dict[str, str]()
    for row in table.rows:
        with suppress(DataError):
            if row.runs and len(films) < FILMS:
                films[row.label] = (
                    "data:image/webp;base64," + base64.b64encode(animate_crops(row.runs[0].folder)).decode()
                )
    return films


def pages_of(table: Table, folder: Path) -> dict[Path, str]:
    """Folder of a run -> link to its own page, relative to the sweep's folder; empty if it has none."""
    runs = {run.folder for row in table.rows for run in row.runs}
    return {
        run: quote(os.path.relpath(run / "index.html", folder)) if (run / "index.html").exists() else "" for run in runs
    }


def templates() -> Environment:
    """The templates in this folder."""
    loader = PackageLoader("paramcrop.report", package_path="")
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {"data": _data, "task": task_of, "yaml": _yaml}
    return jinja


def _request(space: Space) -> dict[str, Any]:
    """The fields of the space that the user set."""
    values = space.model_dump(mode="json", exclude_defaults=True, exclude={"question", "with_preset", "layout"})
    return {"preset": space.preset, "seeds": list(space.seeds)} | values


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None)


def _data(file: Path) -> str:
    """A PNG as a data URL."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


class Section(NamedTuple):
    """One table or figure."""

    name: str
    title: str
    table: Table
    filled: View
    pictures: tuple[Picture, ...]
    scales: tuple[str, ...]


def write_paper(sweeps: Sequence[Path], folder: Path) -> list[Path]:
    """Write ``folder``/index.html and paper.md of several sweeps atomically -> the files."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = [_section(sweep) for sweep in sweeps]
    page, markdown = folder / "index.html", folder / "paper.md"
    with atomic_write(page) as part:
        template = templates().get_template("paper.html.j2")
        charts = script if any(picture.chart for section in sections for picture in section.pictures) else None
        written = time.strftime("%Y-%m-%d %H:%M")
        part.write_text(template.render(sections=sections, text=text, charts=charts, reload=0, written=written))
    with atomic_write(markdown) as part:
        part.write_text(_paper_markdown(sections, folder))
    return [page, markdown]


def _section(sweep: Path) -> Section:
    table = read_table(sweep)
    name = table.space.layout.name if table.space.layout else sweep.name
    pictures = tuple(draw(table, sweep))
    return Section(sweep.name, title(name), table, view(table), pictures, tuple(scale_of(table)))


def _paper_markdown(sections: Sequence[Section], folder: Path) -> str:
    parts = ["# The paper's tables and figures"]
    for section in sections:
        parts.append(f"## {section.title}: {plain(section.table.space.question)}")
        parts += markdown_view(section.filled, 3) or _drawn(section, folder)
    return "\n\n".join(parts) + "\n"


def _drawn(section: Section, folder: Path) -> list[str]:
    """A figure's picture as a link relative to ``folder``, and the scale of its pretraining runs."""
    links = [f"![{plain(p.caption)}]({os.path.relpath(p.file, folder)})" for p in section.pictures[:1]]
    scales = "\n".join(f"- pretrained on {plain(scale)}" for scale in section.scales)
    return [*links, *([scales] if scales else []), f"{text.show_counts(section.table)}."]
