"""The command line of pretraining, without starting Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paramcrop.data.clips import ClipSpec
from paramcrop.data.manifest import Manifest
from paramcrop.settings.presets import all_options
from ray_jobs.engine.ingest import MOST_BLOCK_BYTES, rows_per_block

ROOT = Path(__file__).resolve().parents[2]


def pretrain(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "ray_jobs" / "pretrain.py"), *arguments]
    environment = os.environ | {"PARAMCROP_HOME": str(home), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home, check=False)


def test_help_lists_every_option_quickly(tmp_path: Path) -> None:
    start = time.monotonic()
    done = pretrain(tmp_path, "--help")
    assert time.monotonic() - start < 5
    assert done.returncode == 0
    for key, _ in all_options():
        assert f"  {key}=" in done.stdout


def test_dry_run_prints_the_key_figures_and_writes_nothing(tmp_path: Path) -> None:
    done = pretrain(tmp_path, "--dry-run", "train.global_batch=64", "optim.lr_scale=views/256")
    assert done.returncode == 0
    assert "effective learning rate 0.025" in done.stdout
    assert "ln(2B-1) = 4.844" in done.stdout
    assert "120 steps of 64 videos = 128 views" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("cropper.layer=3",),
            "error: cropper.layer is not a setting; the nearest is cropper.layers; --help lists all",
        ),
        (("--frsh",), "error: unrecognized arguments: --frsh; --help lists all options"),
        (("--preset", "nope"), "error: --preset must be one of"),
        (("--config", "absent.yaml"), "error: --config must be a readable file: absent.yaml"),
        (("data.shards=/nowhere",), "error: /nowhere has no manifest.json"),
        (("data.shards=nosuch://x",), "error: nosuch://x: a folder must be a local path or a URI"),
        (("--preset", "k400_simclr_r2d3d18", "data.shards=/nowhere"), "error: /nowhere"),
        (("run.storage=/proc/nope",), "error: run.storage must be a writable folder: /proc/nope"),
        (
            ("run.storage=nosuch://x",),
            "error: nosuch://x: a folder must be a local path or a URI that pyarrow can open",
        ),
        (("policy=hard", "policies.hard=2"), "error: the centre distance must be at most 1.5"),
        (("train.global_batch=512",), "error: train.global_batch must be at most the number of videos, 256"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = pretrain(tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_error_names_a_missing_split(tmp_path: Path, shards: tuple[str, Manifest]) -> None:
    done = pretrain(tmp_path, "--dry-run", f"data.shards={shards[0]}", "data.split=train")
    assert done.returncode == 0 and "48 videos" in done.stdout and "run id " in done.stdout
    done = pretrain(tmp_path, f"data.shards={shards[0]}", "data.split=test")
    assert (done.returncode, done.stderr) == (2, "error: the split must be one of train, but is 'test'\n")


def test_rows_per_block_divide_the_batch_and_fit_in_a_block() -> None:
    paper = ClipSpec()
    row = 2 * 64 * 128 * 128 * 3
    for batch in (1, 7, 16, 20, 64, 128, 997):
        rows = rows_per_block(batch, paper)
        assert batch % rows == 0
        assert rows == 1 or rows * row <= MOST_BLOCK_BYTES
    assert rows_per_block(128, paper) == 8
    assert rows_per_block(64, ClipSpec(frames=8, size=32)) == 32
    assert rows_per_block(64, ClipSpec(frames=8, size=32), most=10) == 8


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_command_in_one_line(number: int, code: int) -> None:
    wait = "import time; print('ready', flush=True); time.sleep(30)"
    script = f"from paramcrop.cli import run_command\ndef main(argv): {wait}\nrun_command(main)"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, text = process.communicate(timeout=20)
    assert process.returncode == code
    assert text == "interrupted; finished work is kept, and the same command continues from there\n"
