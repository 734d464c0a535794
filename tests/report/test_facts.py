from __future__ import annotations

import json
from pathlib import Path

import pytest

from paramcrop.report.facts import common_settings, final_metric, run_facts
from paramcrop.report.text import show_time, show_work
from paramcrop.storage.runs import write_status
from paramcrop.sweeps.cost import worker_seconds
from tests.report.test_table import made_space
from tests.sweeps.made import DATA, made_run

VALUES = {"cropper.lower": 0.1}


def test_worker_time_is_counted_from_each_start_to_the_next_event() -> None:
    starts = [(10, 2, "cuda"), (40, 1, "cuda"), (60, 4, "cpu")]
    events = [{"time": at, "event": "workers", "workers": n, "device": device} for at, n, device in starts]
    history = [{"time": 0, "event": "running"}, *events, {"time": 100, "event": "finished"}]
    assert worker_seconds(history) == ({"cuda": 30 * 2 + 20 * 1, "cpu": 40 * 4}, True)
    assert worker_seconds([]) == ({}, True)


@pytest.mark.parametrize("after", [[], [{"time": 5000, "event": "running"}]])
def test_the_duration_of_a_start_that_was_killed_is_unknown(after: list[dict[str, object]]) -> None:
    history = [{"time": 0, "event": "running"}, {"time": 10, "event": "workers", "workers": 2, "device": "cpu"}, *after]
    assert worker_seconds(history) == ({}, False)


def test_the_facts_of_a_run(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", made_space(), VALUES, 3, ends=(0.7, 0.2, 3.5))
    facts = run_facts({"seed": 3, "folder": str(folder), "state": "", "error": ""})
    in_video = {"source_distance": 0.35, "source_iou": 0.1}
    assert facts.end == pytest.approx({"crop_distance": 0.7, "crop_iou": 0.2, "loss": 3.5} | in_video)
    assert facts.clips_per_s == 43 and facts.state == "finished" and facts.data == DATA
    assert facts.id == json.loads((folder / "provenance.json").read_text())["run_id"] and facts.commit
    assert facts.settings["cropper"]["lower"] == 0.1 and facts.split is None and facts.all_known


def test_a_missing_or_empty_folder_is_not_an_error(tmp_path: Path) -> None:
    facts = run_facts({"seed": 0, "folder": str(tmp_path / "gone"), "state": "failed", "error": "why"})
    assert (facts.end, facts.clips_per_s, facts.id, facts.settings, facts.error) == ({}, None, "", {}, "why")


def test_final_metrics_are_those_of_finished_runs_if_there_are_any(tmp_path: Path) -> None:
    space, runs = made_space(), []
    for seed, distance in enumerate((0.5, 0.6, 0.7, 0.1)):
        folder = made_run(tmp_path / str(seed), space, VALUES, seed, ends=(distance, 0.2, 3.0))
        if seed == 3:
            write_status(folder, "failed")
        runs.append(run_facts({"seed": seed, "folder": str(folder), "state": "", "error": ""}))
    spread = final_metric(runs, "crop_distance")
    assert spread is not None and spread.value == pytest.approx(0.6) and len(spread.values) == 3
    assert spread.half == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    alone = final_metric(runs[3:], "crop_distance")
    assert alone is not None and alone.value == pytest.approx(0.1)
    assert final_metric([], "crop_distance") is None


def test_a_loss_that_was_not_finite_is_left_out(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", made_space(), VALUES, 0)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 6, "loss": None, "crop_distance": 0.4, "clips_per_s": None}) + "\n")
    facts = run_facts({"seed": 0, "folder": str(folder), "state": "", "error": ""})
    assert facts.end == {"crop_distance": 0.4} and final_metric([facts], "loss") is None


def test_common_settings() -> None:
    one, other = {"a": 1, "b": {"c": [1, 2], "d": 0}, "e": 1}, {"a": 1, "b": {"c": [1, 2], "d": 3}, "e": 2}
    assert common_settings([one, other]) == {"a": 1, "b": {"c": [1, 2]}}
    assert common_settings([one]) == one and common_settings([]) == {}


def test_work_is_shown_per_device(tmp_path: Path) -> None:
    facts = run_facts({"seed": 0, "folder": str(tmp_path), "state": "", "error": ""})
    runs = [facts._replace(seconds={"cuda": 7200.0}), facts._replace(seconds={"cpu": 30.0, "cuda": 3600.0})]
    assert show_work(runs) == "3 h GPU + 30 s CPU"
    assert show_work([facts._replace(all_known=False)]) == "≥ 0 s"


@pytest.mark.parametrize(
    ("seconds", "text"), [(36, "36 s"), (119, "119 s"), (600, "10 min"), (7200, "2 h"), (1e6, "278 h")]
)
def test_times_have_a_suitable_unit(seconds: float, text: str) -> None:
    assert show_time(seconds) == text and show_time(seconds, all_known=False) == f"≥ {text}"
