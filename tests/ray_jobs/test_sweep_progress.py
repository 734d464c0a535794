"""The progress display of a sweep, which reads only the records of its trials."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from paramcrop.storage.mirror import Mirror
from paramcrop.sweeps.objective import Goal
from paramcrop.sweeps.record import TrialRecord, TrialRecorder, read_record
from paramcrop.sweeps.trials import Trial
from paramcrop.sweeps.values import trial_id
from ray_jobs.sweep.progress import line, sweep_progress

ONE = trial_id({"cropper.layers": "one layer"})[:6]


AIMS = [Goal("", "retrieval", "R@1", "max")]


def recorder(folder: Path, label: str) -> TrialRecorder:
    return TrialRecorder(Mirror(folder), Trial({"cropper.layers": label}, label, {}, {}), "wanted")


def watched(folder: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool = False, terminal: bool = False) -> str:
    """One of two trials ends while it is watched, the other is running, and a third ended before."""
    monkeypatch.setattr("ray_jobs.sweep.progress.POLL", 0.05)
    monkeypatch.setattr("ray_jobs.sweep.progress.LINE", 0.1)
    recorder(folder, "from before").end("done")
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=150, soft_wrap=True)
    with sweep_progress(Mirror(folder), 2, console, quiet, AIMS):
        first, second = recorder(folder, "one layer"), recorder(folder, "two layers")
        second.record.doing = "seed 0: pretraining, epoch 5/9"
        second.compared(4, 0.312)
        first.record.objectives = [0.25]
        first.end("done")
        time.sleep(1.2)
    return text.getvalue()


def test_lines_where_there_is_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = watched(tmp_path, monkeypatch)
    assert text.count(f"{ONE} one layer: done, objective 25.0 %, 0 s; 1/2 trials, 0 min left\n") == 1
    assert "two layers: seed 0: pretraining, epoch 5/9, 31.2 % at epoch 4\n" in text
    assert "from before" not in text


def test_a_waiting_trial_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_jobs.sweep.progress.POLL", 0.05)
    monkeypatch.setattr("ray_jobs.sweep.progress.LINE", 0.1)
    monkeypatch.setattr("paramcrop.sweeps.record.SECONDS", {False: 0.0})
    text = io.StringIO()
    with sweep_progress(Mirror(tmp_path), 2, Console(file=text, width=150, soft_wrap=True), quiet=False, aims=AIMS):
        waiting, busy = recorder(tmp_path, "one layer"), recorder(tmp_path, "two layers")
        waiting.doing("seed 0: waiting: process 7 does")
        for step in range(4):
            busy.doing(f"step {step}")
            time.sleep(0.4)
    assert text.getvalue().count("one layer: seed 0: waiting: process 7 does") == 1
    assert "two layers: step 3" in text.getvalue()


def test_quiet_is_a_line_at_each_trials_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(tmp_path, monkeypatch, quiet=True).splitlines() == [
        f"{ONE} one layer: done, objective 25.0 %, 0 s; 1/2 trials, 0 min left"
    ]


def test_a_terminal_has_one_line_for_each_running_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = watched(tmp_path, monkeypatch, terminal=True)
    for expected in ("trial", "objective", "two layers", "31.2 % at epoch 4", "1/2 trials"):
        assert expected in text
    assert re.search("two layers +running", text) and not re.search("one layer +done", text)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"state": "pruned", "epoch": 4, "proxy": 0.1}, "0 a: pruned, 10.0 % at epoch 4, 7 s"),
        ({"state": "diverged", "runs": [{"error": "NaN"}]}, "0 a: diverged, 7 s (NaN)"),
        (
            {"state": "failed", "failures": ["x: y", "z"], "objectives": [0.5]},
            "0 a: failed, objective 50.0 %, 7 s (x: y)",
        ),
    ],
)
def test_how_a_trial_ended(fields: dict[str, Any], expected: str) -> None:
    assert line(TrialRecord("0", "a", {}, "", seconds=7.0, **fields), AIMS) == expected


def test_a_seed_that_fails_before_it_has_a_folder_is_a_failure_without_a_run(tmp_path: Path) -> None:
    broken = recorder(tmp_path, "no data")
    broken.end(broken.failed(3, "failed", ValueError("no such folder\nand more")))
    record = read_record(tmp_path, broken.record.id)
    assert record is not None
    assert (record.state, record.runs, record.failures) == ("failed", [], ["seed 3: no such folder"])
