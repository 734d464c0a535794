"""The command line of reports, which needs no Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paramcrop.sweeps.trials import grid
from tests.report.test_figures import searched
from tests.report.test_table import OTHER, RIGHT, made_space, scores
from tests.sweeps.made import made_trial, write_space

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two sweeps; "bounds" is the newer one."""
    home = tmp_path_factory.mktemp("home")
    searched(home / "sweeps" / "search", complete=11)
    space = made_space(show="curve")
    folder = write_space(home / "sweeps" / "bounds", space)
    for values, right in zip(grid(space), (OTHER, RIGHT), strict=False):
        made_trial(folder, space, values, scores(right))
    os.utime(home / "sweeps" / "search" / "space.yaml", (1, 1))
    for record in (home / "sweeps" / "search" / "trials").iterdir():
        os.utime(record, (1, 1))
    return home


def report(home: Path, *arguments: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "ray_jobs" / "report.py"), *arguments]
    environment = os.environ | {"PARAMCROP_HOME": str(home), "COLUMNS": str(columns)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home, check=False)


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def test_the_newest_sweep_is_printed_and_written(home: Path) -> None:
    done = report(home)
    assert done.returncode == 0, done.stderr
    assert ["lower=0.1", "75.0 ± 62.1 [21.7]", "+41.7 ± 56.0", "4 of 4"] in cells(done.stdout)
    assert ["lower=0.2", "waiting", "-", "-"] in cells(done.stdout)
    assert "4 trials: 2 done, 2 waiting; 6 pretraining runs" in done.stdout
    files = [Path(line.strip()) for line in done.stdout.splitlines() if line.startswith("  /")]
    names = ["index.html", "table.md", "results.parquet", "curve.png", "distance.png", "figure5.png"]
    assert [file.name for file in files] == names and all(file.is_file() for file in files)
    tables = [line for line in done.stdout.splitlines() if line[:1] in ("┏", "┃", "│")]
    assert max(map(len, tables)) <= 80


def test_sweeps_by_name_and_by_folder(home: Path) -> None:
    done = report(home, "--sweep", "search", "sweeps/bounds", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "the best 10 of 13 trials" in done.stdout and "4 trials: 2 done" in done.stdout
    assert not (home / "sweeps" / "search" / "index.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--sweep absent",
            "--sweep must be the folder of a sweep, but neither {home}/absent nor {home}/sweeps/absent is",
        ),
        ("--sweep lame", "--sweep must be the folder of a sweep, but neither {home}/lame nor {home}/sweeps/lame is"),
        ("--sweep torn", "space.yaml: question must be given"),
        ("--sweep full", "a sweep's folder must be writable: {home}/sweeps/full/figures: File exists"),
        ("--nonsense", "unrecognized arguments: --nonsense"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, arguments: str, message: str) -> None:
    sweeps = tmp_path / "sweeps"
    (sweeps / "lame").mkdir(parents=True)
    (sweeps / "torn").mkdir()
    (sweeps / "torn" / "space.yaml").write_text("preset: demo\n")
    (write_space(sweeps / "full", made_space()) / "figures").write_text("in the way")
    done = report(tmp_path, *arguments.split())
    assert done.returncode == 2, done.stdout + done.stderr
    assert message.format(home=tmp_path) in done.stderr and done.stderr.count("\n") == 1


def test_without_any_sweep_the_error_suggests_the_command(tmp_path: Path) -> None:
    done = report(tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: --sweep is needed, because {tmp_path}/sweeps has no sweep; `paramcrop sweep` makes one\n"
    )


@pytest.mark.parametrize(("arguments", "allowed"), [(["--help"], []), (["--sweep", "absent"], [])])
def test_help_and_mistakes_import_neither_torch_nor_ray(arguments: list[str], allowed: list[str]) -> None:
    script = f"import sys; sys.argv = ['report.py', *{arguments!r}]\nfrom paramcrop.cli import run\n"
    script += "try: run('report')\nexcept SystemExit: pass\n"
    script += "print([m for m in ('torch', 'ray', 'matplotlib', 'optuna') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == str(allowed)
