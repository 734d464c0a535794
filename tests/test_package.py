"""The package as others get it: the wheel, in a folder far from the clone."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

import paramcrop
from paramcrop.cli import COMMANDS
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
    assert "6. lower=0.5: new" in done.stdout, done.stdout + done.stderr
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
