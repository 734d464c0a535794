"""Puts the folders that lie beside the package into the wheel; all else of the build is in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BESIDE = ("search_spaces", "cluster")  # paramcrop.settings.presets.shipped finds them in a clone and in a wheel


class BuildWithFolders(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in BESIDE:
                shutil.copytree(
                    name,
                    Path(self.build_lib, "paramcrop", name),
                    ignore=shutil.ignore_patterns("__pycache__"),
                    dirs_exist_ok=True,
                )


setup(cmdclass={"build_py": BuildWithFolders})
