"""The time that a dry run of a sweep foretells, from made records of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from paramcrop.settings.config import Config
from ray_jobs.sweep.estimate import START, Pace, evaluation_seconds, paces, seconds_of
from tests.memory import tiny_config


def record(runs: Path, name: str, config: Config, steps: int, step: float, start: float, workers: int = 1) -> Path:
    """A finished run of ``steps`` of ``step`` seconds, with ``start`` seconds besides."""
    folder = runs / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    views = 2 * config.train.global_batch
    lines = [{"step": 1, "clips_per_s": views / (start + step)}]
    lines += [{"step": at, "clips_per_s": views / step} for at in range(2, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    events = [{"event": "running", "time": 100.0}, *[{"event": "workers", "time": 110.0}] * workers]
    events.append({"event": "finished", "time": 100.0 + start + steps * step})
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in events))
    return folder


def test_a_short_run_foretells_a_long_one(tmp_path: Path) -> None:
    """Its start is not counted with every step."""
    config = tiny_config()
    record(tmp_path, "demo-1", config, steps=8, step=0.5, start=20)
    known = paces(tmp_path, config)
    assert seconds_of(known, 240) == pytest.approx(20 + 120)


def test_only_runs_of_equal_cost_count(tmp_path: Path) -> None:
    record(tmp_path, "demo-1", tiny_config("cropper.lower=0.1", "optim.lr=1", "train.max_steps=8"), 8, 0.5, 20)
    record(tmp_path, "demo-2", tiny_config("backbone.width=16"), 8, 5.0, 20)
    record(tmp_path, "demo-3", tiny_config("train.global_batch=16"), 8, 1.0, 20)
    record(tmp_path, "other-4", tiny_config(), 8, 7.0, 20)
    (tmp_path / "demo-5").mkdir()
    (known,) = paces(tmp_path, tiny_config())
    assert known == pytest.approx(Pace(0.5, 20.0))


def test_an_interrupted_run_has_a_pace_but_no_start(tmp_path: Path) -> None:
    record(tmp_path, "demo-1", tiny_config(), 8, 0.5, 3600, workers=2)
    (known,) = paces(tmp_path, tiny_config())
    assert known.besides is None and seconds_of([known], 10) == 5 + START


def test_evaluations_are_counted_per_run(tmp_path: Path) -> None:
    folder = record(tmp_path, "demo-1", tiny_config(), 8, 0.5, 20)
    (folder / "evaluations").mkdir()
    for number, (protocol, seconds) in enumerate([("knn", 4.0), ("knn", 6.0), ("heads", 30.0)]):
        result = {"rows": [], "dataset": "ucf101", "protocol": protocol, "seconds": seconds}
        (folder / "evaluations" / f"{number}.json").write_text(json.dumps(result))
    assert evaluation_seconds(tmp_path, "demo", [("ucf101", "knn"), ("ucf101", "heads")]) == 40
    assert evaluation_seconds(tmp_path, "demo", [("ucf101", "linear")]) is None
