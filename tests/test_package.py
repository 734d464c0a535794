"""The package as others get it: the wheel, in a folder far from the clone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import paramcrop
from paramcrop.cli import COMMANDS
from paramcrop.data.synthetic import render
from paramcrop.data.video import encode
from tests.memory import TINY
from tests.wheel import ROOT, Installed


def test_every_file_that_commands_need_is_in_the_wheel(wheel: Installed) -> None:
    code = [path for name in ("paramcrop", "ray_jobs") for path in (ROOT / name).rglob("*") if path.is_file()]
    beside = [path for name in ("search_spaces", "cluster") for path in (ROOT / name).rglob("*") if path.is_file()]
    for path in code:
        if "__pycache__" not in path.parts:
            assert (wheel.site / path.relative_to(ROOT)).is_file(), path
    for path in beside:
        if "__pycache__" not in path.parts:
            assert (wheel.site / "paramcrop" / path.relative_to(ROOT)).is_file(), path
    assert (wheel.site / "paramcrop" / "py.typed").is_file()
    assert not (wheel.site / "search_spaces").exists() and not (wheel.site / "cluster").exists()


def test_the_command_lists_its_subcommands_and_each_has_a_help(wheel: Installed) -> None:
    done = wheel.run("paramcrop", "--help")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")] == list(COMMANDS)
    for command in COMMANDS:
        done = wheel.run("paramcrop", command, "--help")
        assert done.returncode == 0 and f"usage: paramcrop {command}" in done.stdout, done.stdout + done.stderr


def test_shipped_files_are_found_by_name_from_any_folder(wheel: Installed) -> None:
    done = wheel.run("paramcrop", "sweep", "--space", "es_bounds", "--dry-run", "--cluster", "cluster/aws.yaml")
    assert re.search(r"6\. [0-9a-f]{6} lower=0\.5: new", done.stdout), done.stdout + done.stderr
    assert "cluster: cluster/aws.yaml, at most " in done.stdout
    done = wheel.run("paramcrop", "pretrain", "--preset", "k400_simclr_s3dg", "--dry-run", "--cluster", "rayjob")
    assert "cluster: rayjob, at most " in done.stdout, done.stdout + done.stderr
    done = wheel.run("paramcrop", "sweep", "--space", "table1", "--dry-run")
    assert done.returncode == 0, done.stderr
    find = "from paramcrop.report.page import TEMPLATE, templates; print(templates().get_template(TEMPLATE).filename)"
    done = wheel.run("python", "-c", find)
    assert str(wheel.site) in done.stdout, done.stderr


def test_a_dry_run_of_the_demo_needs_nothing_else(wheel: Installed) -> None:
    done = wheel.run("paramcrop", "pretrain", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "data: a synthetic set of" in done.stdout
    assert not (wheel.cwd / "home" / "runs").exists()


def test_a_run_is_exported_and_loaded_from_the_wheel_alone(wheel: Installed, tiny_run: Path) -> None:
    done = wheel.run("paramcrop", "export", "--run", str(tiny_run), "--out", "exported")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel.cwd / "videos").mkdir()
    (wheel.cwd / "videos" / "a.mp4").write_bytes(encode(render("up", 20, 32, 40, np.random.default_rng(0)), 12.0).data)
    use = "import paramcrop; e = paramcrop.load('exported'); x = e.preprocess('videos/a.mp4')"
    done = wheel.run("python", "-c", f"{use}; print(tuple(e(x).shape), paramcrop.__file__)")
    assert f"(1, 32) {wheel.site}" in done.stdout, done.stdout + done.stderr
    given = ("--weights", "exported", "--videos", "videos", "--out", "f.parquet", "--dry-run")
    done = wheel.run("paramcrop", "embed", *given)
    assert done.returncode == 0 and "1 videos in " in done.stdout, done.stdout + done.stderr


@pytest.mark.ray
def test_a_pretraining_runs_from_the_wheel_alone(wheel: Installed) -> None:
    """Its workers find the same code."""
    done = wheel.run("paramcrop", "pretrain", *TINY, "train.max_steps=2", "run.name=installed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 steps in" in done.stdout


def test_every_public_name_loads_and_none_before_it_is_used() -> None:
    for name in paramcrop.__all__:
        assert getattr(paramcrop, name) is not None
    code = "import sys, paramcrop; print(*{'torch', 'numpy', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == paramcrop.__version__
    assert f"## [{paramcrop.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
