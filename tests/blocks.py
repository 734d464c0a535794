"""The code blocks of the README and of docs/, and which of them are run.

A fence is run, in its page's order, unless an HTML comment on the line before it says what it needs:

    <!-- starts Ray -->         run, by a test marked ray
    <!-- takes minutes -->      run, by a test marked slow
    <!-- needs: a bucket -->    not run; its commands are parsed

A fence with title="NAME" is written to that file first. ``text`` and ``output`` fences show what a command prints; the
site wraps the latter.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.wheel import ROOT

FENCE = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<mark>[^\n]*?) -->\n(?P=indent))?"
    r"```(?P<language>\w*)(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)
SHOWN = ("text", "output")
LANGUAGES = ("bash", "python", "yaml", *SHOWN)
RUN = ("", "starts Ray", "takes minutes")  # marks of what is run
PAGES = [ROOT / "README.md", ROOT / "cluster" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"(?:paramcrop |python ray_jobs/)(?P<name>[a-z]+)(?:\.py)?(?= |$)(?P<rest>.*)")


@dataclass(frozen=True)
class Block:
    """One fence: its language, its mark (empty: none), the file it is written to (empty: none), its text."""

    page: Path
    language: str
    mark: str
    title: str
    code: str

    @property
    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Each command of ours in a bash block: its name and its arguments."""
        for line in self.code.replace("\\\n", " ").splitlines():
            if found := COMMAND.search(line.partition("  #")[0]):
                yield found["name"], shlex.split(found["rest"])


def blocks(page: Path) -> list[Block]:
    found = []
    for match in FENCE.finditer(page.read_text()):
        title = re.search(r'title="([^"]+)"', match["info"])
        code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.M)
        found.append(Block(page, match["language"], match["mark"] or "", title[1] if title else "", code))
    return found


def runs(page: Path, mark: str) -> list[Block]:
    """What is run for ``mark``: files, and the blocks that have it."""
    mine = [block for block in blocks(page) if block.mark == mark and block.language in ("bash", "python")]
    files = [block for block in blocks(page) if block.title and block not in mine]
    return [*files, *mine] if mine else []
