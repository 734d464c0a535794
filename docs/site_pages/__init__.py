"""The pages that are made from the code when the site is built. None is committed, so none can be out of date."""

from __future__ import annotations

from paramcrop.paper.tables import read_paper
from site_pages.api import api_page
from site_pages.commands import commands_page
from site_pages.paper import cost_page, tables_page
from site_pages.protocols import protocols_page
from site_pages.settings import presets_page, settings_page, unstated_page
from site_pages.spaces import space_keys_page


def pages() -> dict[str, str]:
    """Path below docs/ -> Markdown."""
    paper = read_paper()
    assert paper is not None, "the site is built where the spaces are"
    return {
        "reference/settings.md": settings_page(),
        "reference/presets.md": presets_page(),
        "reference/protocols.md": protocols_page(),
        "reference/space-keys.md": space_keys_page(),
        "reference/commands.md": commands_page(),
        "reference/api.md": api_page(),
        "paper/unstated.md": unstated_page(),
        "paper/tables.md": tables_page(paper),
        "numbers/cost.md": cost_page(paper),
    }
