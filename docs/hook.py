"""mkdocs' events (see mkdocs.yml): add pages made from the code, the page on clusters, and the README's pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from site_pages import pages

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LOADED = re.compile(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="(https?:[^"]+)"')
PICTURES = ROOT / ".github"
CLUSTER = ROOT / "cluster" / "README.md"  # beside the launch files that it is about


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    files.append(File.generated(config, "guides/cluster.md", abs_src_path=str(CLUSTER)))
    for picture in sorted(PICTURES.rglob("*.png")):
        shown = "-".join(picture.relative_to(PICTURES).parts)
        files.append(File.generated(config, f"images/{shown}", abs_src_path=str(picture)))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Raises:
    PluginError: the page loads something from elsewhere, so it would not work without a network.
    """
    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_path} must load nothing from elsewhere, but loads {found[1]}")
    return output
