"""The built wheel, installed into a folder of its own: what somebody has who never saw the clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILT_FROM = ("paramcrop", "ray_jobs", "search_spaces", "cluster")
OWN_RAY = {"RAY_ADDRESS": "local", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "COLUMNS": "200"}
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")


@dataclass(frozen=True)
class Installed:
    """``site`` alone is on the path of its commands, and ``cwd`` is no part of the clone."""

    site: Path
    cwd: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command; ``paramcrop`` is the installed one, ``python`` this interpreter."""
        first = {"paramcrop": str(self.site / "bin" / "paramcrop"), "python": sys.executable}[command[0]]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
        environment = kept | OWN_RAY | {"PYTHONPATH": str(self.site), "PARAMCROP_HOME": str(self.cwd / "home")}
        line = [first, *command[1:]]
        return subprocess.run(line, cwd=self.cwd, env=environment, capture_output=True, text=True, check=False)


def install(folder: Path) -> Installed:
    """Build the wheel from a copy of the clone, in which no earlier build has left anything, and install it."""
    copy, site, cwd = folder / "copy", folder / "site", folder / "elsewhere"
    for name in BUILT_FROM:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, copy / name)
    cwd.mkdir()
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(copy)], check=True)
    (wheel,) = folder.glob("*.whl")
    shutil.rmtree(copy)
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    return Installed(site, cwd)
