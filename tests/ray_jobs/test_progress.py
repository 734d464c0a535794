"""The progress of a command: a display on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

from rich.console import Console

from paramcrop.storage.jsonl import append_line
from paramcrop.storage.mirror import Mirror
from ray_jobs.evaluate.report import Evaluations
from ray_jobs.prepare.progress import Videos
from ray_jobs.pretrain.progress import Attempt, restart, run_progress
from ray_jobs.terminal import Pace, Progress, Standing

METRICS = {"loss": 3.0, "crop_distance": 0.5, "crop_iou": 0.25, "clips_per_s": 40.0, "data_wait": 0.1}
SUMMARY = "loss 3.000  distance 0.50  IoU 0.25  40 clips/s  waiting for data 10%"


def screen(terminal: bool = False) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=150, soft_wrap=True), text


def log(folder: Path, *steps: int) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": step} | METRICS) + "\n" for step in steps)


def pretrained(folder: Path, terminal: bool) -> str:
    """Two of four steps are done; then the workers die and restart, and the last step follows."""
    console, text = screen(terminal)
    with run_progress(Attempt(Mirror(folder)), 4, console):
        append_line(folder / "history.jsonl", {"event": "workers", "step": 0})
        log(folder, 1, 2)
        time.sleep(1)
        line = {"event": "workers", "step": 2, "passed_over": ["epoch=0001: torn"]}
        append_line(folder / "history.jsonl", line)
        log(folder, 3, 4)
    return text.getvalue()


def test_a_run_prints_its_first_line_its_last_line_and_its_news(tmp_path: Path) -> None:
    first, news, last = pretrained(tmp_path, terminal=False).splitlines()
    assert first == f"step 2/4  {SUMMARY}  "
    again = "workers restarted from step 2; skipped a damaged checkpoint: epoch=0001: torn"
    assert (news, last) == (again, f"step 4/4  {SUMMARY}  0:00 left")


def test_a_restart_with_another_number_of_workers_says_so() -> None:
    assert restart({"step": 2, "workers": 1}, 2) == "workers restarted from step 2, 1 instead of 2"
    assert restart({"step": 2, "workers": 2}, 2) == "workers restarted from step 2"


def test_a_resumed_run_shows_nothing_of_the_attempt_before(tmp_path: Path) -> None:
    """Which went on to step 3 after the checkpoint of step 1. Its lines are there until the workers start."""
    append_line(tmp_path / "history.jsonl", {"event": "workers", "step": 0})
    log(tmp_path, 1, 2, 3)
    console, text = screen()
    with run_progress(Attempt(Mirror(tmp_path)), 4, console):
        time.sleep(1)
        assert text.getvalue() == ""
        (tmp_path / "metrics.jsonl").unlink()
        log(tmp_path, 1)
        append_line(tmp_path / "history.jsonl", {"event": "workers", "step": 1})
        time.sleep(1)
        assert text.getvalue() == ""
        log(tmp_path, 2)
        time.sleep(1)
        log(tmp_path, 3, 4)
    first, last = text.getvalue().splitlines()
    assert first == f"step 2/4  {SUMMARY}  " and last == f"step 4/4  {SUMMARY}  0:00 left"


def test_a_checkpoint_that_the_run_resumed_from_is_not_a_new_one(tmp_path: Path) -> None:
    attempt = Attempt(Mirror(tmp_path))
    append_line(tmp_path / "history.jsonl", {"event": "workers", "step": 20})
    for step, saved in ((20, False), (25, True)):
        folder = tmp_path / "checkpoints" / f"epoch=0002-step={step:07d}"
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text("{}")
        assert attempt.saved() is saved


def test_the_time_left_is_never_negative() -> None:
    pace = Pace(100)
    assert pace.left(90) == ""
    time.sleep(0.01)
    assert pace.left(80) == ""  # workers went back to a checkpoint
    time.sleep(0.01)
    assert pace.left(85).startswith("0:00")


def test_a_run_prints_its_rank_and_each_warning_once(tmp_path: Path) -> None:
    console, text = screen()
    with run_progress(Attempt(Mirror(tmp_path)), 4, console):
        append_line(tmp_path / "history.jsonl", {"event": "workers", "step": 0})
        (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 4, "rank": 12.3} | METRICS) + "\n")
        time.sleep(0.7)
        append_line(tmp_path / "warnings.jsonl", {"step": 4, "text": "step 4: the run has not learned"})
        time.sleep(1.2)
    assert text.getvalue().count("warning: step 4: the run has not learned") == 1
    assert "loss 3.000  rank 12  distance 0.50" in text.getvalue()


def test_the_runs_page_is_written_after_a_checkpoint(tmp_path: Path) -> None:
    console, _ = screen()
    with run_progress(Attempt(Mirror(tmp_path)), 4, console):
        started = {"event": "workers", "step": 0, "epoch": 0, "workers": 1, "device": "cpu"}
        append_line(tmp_path / "history.jsonl", started)
        log(tmp_path, 1, 2)
        time.sleep(1)
        assert not (tmp_path / "index.html").exists()
        (tmp_path / "checkpoints" / "epoch=0001").mkdir(parents=True)
        (tmp_path / "checkpoints" / "epoch=0001" / "meta.json").write_text("{}")
    assert "at step 2" in (tmp_path / "index.html").read_text()


def test_a_run_has_a_bar_on_a_terminal(tmp_path: Path) -> None:
    text = pretrained(tmp_path, terminal=True)
    for shown in ("pretrain", "2/4", "4/4", SUMMARY, "torn"):
        assert shown in text


def test_lines_come_at_intervals_and_only_when_they_change() -> None:
    (console, text), lines = screen(), iter("aabbcc")

    def look() -> Standing:
        return Standing(lines=(next(lines, "c"),))

    with Progress(look, console, poll=0.01, line=0.0):
        time.sleep(0.5)
    assert text.getvalue().split() == ["a", "b", "c"]


def test_counts_of_videos_and_of_evaluations() -> None:
    videos = Videos(20, 5)
    assert videos.look().lines == ("5/20 videos  0 rejected",)
    videos.report(10, 2)
    (line,) = videos.look().lines
    assert line.startswith("15/20 videos  2 rejected  ") and line.endswith(" videos/s  0:00 left")
    evaluations = Evaluations(3)
    evaluations.report(1, ["a: epoch 1", "", "b"])
    assert evaluations.look().lines == ("1/3 evaluations  a: epoch 1; b",)


def test_no_pace_before_two_counts() -> None:
    pace = Pace(100)
    assert pace.left(10) == pace.left(10) == ""
    assert pace.left(50) == "0:00 left"
