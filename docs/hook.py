"""mkdocs' event (see mkdocs.yml): adds pages made from the code, the page on clusters, and the README's pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

from site_pages import pages

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]
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
