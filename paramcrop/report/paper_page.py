"""All tables and figures of the paper on one page: ours beside the paper's, a picture, and where the rest lies."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from paramcrop.report import shown
from paramcrop.report.figures import Picture, draw
from paramcrop.report.filled_view import View, title, view
from paramcrop.report.page import markdown_view, plain, read_table, templates
from paramcrop.report.paper_table import scale_of
from paramcrop.report.table import Table
from paramcrop.sweeps.whole import whole


class Section(NamedTuple):
    """One table or figure."""

    name: str
    title: str
    table: Table
    filled: View
    pictures: tuple[Picture, ...]
    scales: tuple[str, ...]


def write_paper(sweeps: Sequence[Path], folder: Path) -> list[Path]:
    """Write ``folder``/index.html and paper.md of the sweeps' folders, whole or not at all -> the files."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = [_section(sweep) for sweep in sweeps]
    page, markdown = folder / "index.html", folder / "paper.md"
    with whole(page) as part:
        template = templates().get_template("paper.html.j2")
        part.write_text(template.render(sections=sections, shown=shown, written=time.strftime("%Y-%m-%d %H:%M")))
    with whole(markdown) as part:
        part.write_text(_markdown(sections, folder))
    return [page, markdown]


def _section(sweep: Path) -> Section:
    table = read_table(sweep)
    name = table.space.layout.name if table.space.layout else sweep.name
    pictures = tuple(draw(table, sweep))
    return Section(sweep.name, title(name), table, view(table), pictures, tuple(scale_of(table)))


def _markdown(sections: Sequence[Section], folder: Path) -> str:
    parts = ["# The paper's tables and figures"]
    for section in sections:
        parts.append(f"## {section.title}: {plain(section.table.space.question)}")
        parts += markdown_view(section.filled, 3) or _drawn(section, folder)
    return "\n\n".join(parts) + "\n"


def _drawn(section: Section, folder: Path) -> list[str]:
    """Of a figure: its picture, linked from ``folder``, and of what pretrainings it is."""
    links = [f"![{plain(p.caption)}]({os.path.relpath(p.file, folder)})" for p in section.pictures[:1]]
    scales = "\n".join(f"- pretrained on {plain(scale)}" for scale in section.scales)
    return [*links, *([scales] if scales else []), f"{shown.show_counts(section.table)}."]
