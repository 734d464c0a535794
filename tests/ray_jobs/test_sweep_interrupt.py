"""Ctrl-C on a sweep: runs in progress are asked to save, and no record says "running" afterwards."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from paramcrop.storage.lease import Lease
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import asked_to_stop_now, read_status, write_status
from paramcrop.sweeps.record import TrialRecord, TrialRecorder, read_records
from paramcrop.sweeps.trials import Trial
from ray_jobs.sweep import interrupt
from ray_jobs.sweep.interrupt import end_trials, keep_runs


def trial(folder: Path, label: str, run: Path, state: str) -> TrialRecorder:
    recorder = TrialRecorder(Mirror(folder), Trial({"cropper.layers": label}, label, {}, {}), "wanted")
    run.mkdir()
    write_status(run, state)
    recorder.run(0, Mirror(run), "running" if state == "running" else "")
    return recorder


def test_the_runs_in_progress_are_asked_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "POLL", 0.05)
    monkeypatch.setattr(interrupt, "SETTLE", 0.05)
    trains, idle = tmp_path / "trains", tmp_path / "finished"
    mine = trial(tmp_path / "sweep", "one", trains, "running")
    trial(tmp_path / "sweep", "two", idle, "finished")
    trial(tmp_path / "sweep", "three", tmp_path / "done", "finished").end("done")
    said = list[str]()

    def process() -> None:
        with Lease(trains):
            ready.set()
            while not asked_to_stop_now(trains):
                time.sleep(0.02)
            write_status(trains, "stopped@3")
            mine.end("failed")  # as a trial ends whose run was stopped

    ready = threading.Event()
    worker = threading.Thread(target=process)
    worker.start()
    ready.wait(10)
    keep_runs(Mirror(tmp_path / "sweep"), said.append, grace=20)
    worker.join(10)
    assert read_status(trains)["state"] == "stopped@3" and not (idle / "stop").exists() and len(said) == 1
    states = {record.label: record.state for record in read_records(tmp_path / "sweep")}
    assert states == {"one": "interrupted", "two": "interrupted", "three": "done"}


def test_a_run_that_another_command_trains_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "SETTLE", 0.0)
    run = tmp_path / "run"
    waiting = trial(tmp_path / "sweep", "one", run, "running")
    waiting.run(0, Mirror(run))  # its lease is held, so the trial waits for its result
    with Lease(run):
        keep_runs(Mirror(tmp_path / "sweep"), lambda text: None, grace=0.1)
    assert read_status(run)["state"] == "running" and not (run / "stop").exists()
    assert read_records(tmp_path / "sweep")[0].state == "interrupted"


def test_what_does_not_answer_is_interrupted_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "SETTLE", 0.0)
    run = tmp_path / "run"
    trial(tmp_path / "sweep", "one", run, "running")
    with Lease(run):
        keep_runs(Mirror(tmp_path / "sweep"), lambda text: None, grace=0.1)
    assert read_status(run)["state"] == "interrupted"


def test_a_trial_whose_process_ends_is_recorded_whether_it_has_begun_a_record_or_not(tmp_path: Path) -> None:
    begun = trial(tmp_path / "sweep", "one", tmp_path / "run", "running").record
    never = TrialRecord("f" * 10, "two", {}, "wanted")
    end_trials(Mirror(tmp_path / "sweep"), [TrialRecord(begun.id, "one", {}, "wanted"), never], "failed", "no space")
    found = {record.label: record for record in read_records(tmp_path / "sweep")}
    assert {label: (r.state, r.failures) for label, r in found.items()} == {
        "one": ("failed", ["no space"]),
        "two": ("failed", ["no space"]),
    }
    assert len(found["one"].runs) == 1
