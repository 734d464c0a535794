"""The command line of figures, which needs no Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paramcrop.storage.runs import write_provenance
from paramcrop.training.build import build_clip_spec
from paramcrop.training.pretrain import pretrain
from paramcrop.training.recorder import Recorder
from tests.memory import made_clips, memory_batches, tiny_config

ROOT = Path(__file__).resolve().parents[2]


def figures(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "ray_jobs" / "figures.py"), *arguments]
    environment = os.environ | {"PARAMCROP_HOME": str(cwd), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three real, tiny runs: two seeds of one policy, and another policy."""
    home = tmp_path_factory.mktemp("home")
    for name, *overrides in (("a0",), ("a1", "seed=1"), ("b", "policy=hard")):
        config = tiny_config("train.epochs=1", "run.log_every=1", f"run.name={name}", *overrides)
        clips = made_clips(16, config.data.clip_frames, config.data.clip_size)
        recorder = Recorder(home / "runs" / name)
        write_provenance(home / "runs" / name, config, "some data")
        pretrain(config, memory_batches(clips, build_clip_spec(config), config.seed, 8), 2, recorder)
        recorder.close()
    return home


def test_runs_by_name_and_by_path_are_drawn_side_by_side(runs: Path, tmp_path: Path) -> None:
    done = figures(runs, "a0", "a1", str(runs / "runs" / "b"), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    rows = [line.split("│")[1:3] for line in done.stdout.splitlines() if "policy=" in line and "│" in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert [name for name, _ in cells] == ["policy=paramcrop (2 seeds)", "policy=hard"]
    assert cells[1][1] == "0.75 0.75 0.75"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a0.html",
        "a1.html",
        "b.html",
        "crop_parameters-policy=hard.png",
        "crop_parameters-policy=paramcrop.png",
        "crops.mp4",
        "crops.png",
        "figure5.png",
    ]
    assert all(path.stat().st_size > 1000 for path in (tmp_path / "out").iterdir())


def test_a_dry_run_writes_nothing(runs: Path, tmp_path: Path) -> None:
    done = figures(runs, "a0", "--dry-run", "--out", str(tmp_path / "out"))
    assert done.returncode == 0 and "a0" in done.stdout and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: RUN"),
        (("absent",), "error: RUN must be the folder of a run with metrics, but neither "),
        (("a0", "--video", "7", "--out", "{tmp}"), "error: the number of a saved clip must be 0 to 3, but is 7"),
        (("a0", "--out", "/proc/absent"), "error: --out must be a writable folder: /proc/absent"),
        (("lame", "--out", "{tmp}"), "error: a run's folder must have a config.yaml and a provenance.json, but "),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    runs: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (runs / "runs" / "lame").mkdir(exist_ok=True)
    (runs / "runs" / "lame" / "metrics.jsonl").write_text('{"step": 1}\n')
    done = figures(runs, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1
