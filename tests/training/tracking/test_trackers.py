"""Trackers get what a run logs; one that fails or hangs costs the run nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from paramcrop.errors import ConfigError
from paramcrop.settings.identity import flatten, run_id
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.runs import read_metrics
from paramcrop.training.recorder import Recorder
from paramcrop.training.tracking import guard
from paramcrop.training.tracking.after import track_pictures, track_results
from paramcrop.training.tracking.board import Board
from paramcrop.training.tracking.services import SERVICES
from paramcrop.training.tracking.tracker import Facts
from paramcrop.training.tracking.trackers import Trackers, check_trackers
from tests.memory import tiny_config

# A stand-in for the package wandb, which the tracker's process finds first. It writes what it is told to calls.jsonl.
STAND_IN = """
import json, os, sys, time
from pathlib import Path

CALLS = Path(__file__).with_name("calls.jsonl")

def tell(*what):
    with CALLS.open("a") as file:
        file.write(json.dumps(what) + "\\n")

class Settings:
    def __init__(self, **given): pass

class Image:
    def __init__(self, file): self.file = file

class Run:
    class summary:
        update = staticmethod(lambda values: tell("summary", values))
    def log(self, values, step):
        {log}
        tell("log", step, {{k: getattr(v, "file", v) for k, v in values.items()}})
    def finish(self):
        {finish}
        tell("finish")

def init(**given):
    {init}
    tell("init", given["id"], given["mode"], given["config"])
    return Run()
"""
HANGS, FAILS, DIES = "time.sleep(3600)", "raise ValueError('no network')", "os._exit(7)"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make the package: what ``init``, ``log`` and ``finish`` do first -> the file of its calls."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)

    def make(**first: str) -> Path:
        folder = tmp_path / "packages"
        folder.mkdir()
        body = {"init": "pass", "log": "pass", "finish": "pass"} | first
        (folder / "wandb.py").write_text(STAND_IN.format(**body))
        monkeypatch.syspath_prepend(str(folder))
        return folder / "calls.jsonl"

    return make


def read_calls(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_tracker_gets_settings_metrics_pictures_and_results_in_order(
    tmp_path: Path, stand_in: Callable[..., Path]
) -> None:
    calls = stand_in()
    trackers = Trackers(("wandb",), Facts("demo-123", str(tmp_path), {"seed": 3}))
    trackers.metrics(1, {"loss": 2.0})
    trackers.metrics(2, {"loss": 1.0})
    trackers.picture(2, "figure5", tmp_path / "figure5.png")
    trackers.results(2, {"ucf101/knn/video@1": 0.5})
    trackers.close()
    assert list(trackers.news()) == []
    assert read_calls(calls) == [
        ["init", "demo-123", "offline", {"seed": 3}],
        ["log", 1, {"loss": 2.0}],
        ["log", 2, {"loss": 1.0}],
        ["log", 2, {"figure5": str(tmp_path / "figure5.png")}],
        ["summary", {"ucf101/knn/video@1": 0.5}],
        ["finish"],
    ]


@pytest.mark.parametrize(
    ("where", "what", "reason"),
    [
        ("init", FAILS, "no network"),
        ("log", FAILS, "no network"),
        ("log", DIES, "exited with code 7"),
        ("init", HANGS, "did not end|took longer"),
        ("log", HANGS, "did not end|took longer"),
        ("finish", HANGS, "did not end|took longer"),
    ],
)
def test_a_tracker_that_fails_or_hangs_costs_the_run_nothing(
    tmp_path: Path,
    stand_in: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    what: str,
    reason: str,
) -> None:
    stand_in(**{where: what})
    for name in ("PATIENCE", "STARTING"):  # seconds; the others end by themselves
        monkeypatch.setattr(guard, name, 1.0 if what == HANGS else 50.0)
    run = tmp_path / "run"
    recorder = Recorder(run, trackers=("tensorboard", "wandb"), config={"seed": 3})
    for step in (1, 2, 3):
        recorder.metrics(step, 0, {"loss": 1.0 / step})
    recorder.close()  # returns, although the stand-in sleeps for an hour
    assert recorder.problem == ""
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3]
    (warning,) = [line["text"] for line in read_lines(run / "warnings.jsonl")]
    assert warning.startswith("the tracker wandb has failed, and the run goes on without it: ")
    assert any(part in warning for part in reason.split("|")), warning


def test_a_call_that_takes_too_long_ends_the_tracker(tmp_path: Path, stand_in: Callable[..., Path]) -> None:
    stand_in(log=HANGS)
    guarded = guard.Guarded("wandb", Facts("demo-123", str(tmp_path), {}), timeout=4.0)
    for step in range(3):
        guarded.send("metrics", step, {"loss": 1.0})
    guarded._thread.join()
    assert guarded.problem == "a call took longer than 4 s"
    guarded.send("metrics", 9, {"loss": 1.0})
    guarded.close()


def test_calls_that_find_no_place_are_left_out(
    tmp_path: Path, stand_in: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(init=HANGS)
    monkeypatch.setattr(guard, "WAITING", 5)
    monkeypatch.setattr(guard, "STARTING", 0.1)
    guarded = guard.Guarded("wandb", Facts("demo-123", str(tmp_path), {}))
    for step in range(100):
        guarded.send("metrics", step, {"loss": 1.0})
    assert guarded.left_out >= 94
    guarded.close()


def test_a_board_that_cannot_be_written_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    trackers = Trackers(("tensorboard",), Facts("demo-123", str(tmp_path), {"seed": 3}))
    monkeypatch.setattr(Board, "metrics", full)
    trackers.metrics(1, {"loss": 2.0})
    trackers.metrics(2, {"loss": 2.0})
    (text,) = trackers.news()
    assert text.endswith("goes on without it: No space left on device") and list(trackers.news()) == []
    trackers.close()


def test_the_board_has_settings_metrics_and_pictures(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    import matplotlib.image

    matplotlib.image.imsave(tmp_path / "one.png", [[0.0, 1.0]])
    trackers = Trackers(("tensorboard",), Facts("demo-123", str(tmp_path), {"train.epochs": 3}))
    trackers.metrics(1, {"loss": 2.0})
    trackers.picture(1, "one", tmp_path / "one.png")
    trackers.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    found = {v.tag: e.step for e in loader.EventFileLoader(str(file)).Load() for v in e.summary.value}
    assert {name.partition("/")[0] for name in found} == {"settings", "loss", "one"}


def test_trackers_are_a_setting_that_no_id_has() -> None:
    config = tiny_config("run.trackers=[tensorboard,wandb]")
    assert config.run.trackers == ("tensorboard", "wandb") == tiny_config("run.trackers=tensorboard,wandb").run.trackers
    assert tiny_config("run.trackers=[]").run.trackers == () == tiny_config("run.trackers=").run.trackers
    assert run_id(config, "x") == run_id(tiny_config(), "x")
    assert yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))["run"]["trackers"] == ["tensorboard", "wandb"]
    with pytest.raises(ConfigError, match=r"run\.trackers"):
        tiny_config("run.trackers=[neptune]")


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers(("tensorboard",))
    monkeypatch.setattr("paramcrop.training.tracking.trackers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^run\.trackers=mlflow needs the package mlflow: pip install mlflow$"):
        check_trackers(("tensorboard", "mlflow"))


@pytest.mark.parametrize("name", SERVICES)
def test_the_real_package_takes_all_of_it_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    import matplotlib.image

    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setattr(guard, "PATIENCE", 50.0)
    matplotlib.image.imsave(tmp_path / "one.png", [[0.0, 1.0]])
    for attempt in range(2):  # the second continues the first
        facts = Facts("demo-123", str(tmp_path), flatten(tiny_config().model_dump(mode="json")), 2 * attempt)
        trackers = Trackers((name,), facts)
        trackers.metrics(2 * attempt + 1, {"loss": 2.0, "lr": 0.1})
        trackers.picture(2 * attempt + 1, "one", tmp_path / "one.png")
        trackers.results(2 * attempt + 1, {"ucf101/retrieval/R@1": 0.5})
        trackers.close()
        assert list(trackers.news()) == []
    assert any((tmp_path / folder).exists() for folder in ("wandb", "mlruns", "trackio"))


def test_pictures_and_results_continue_the_board_without_hiding_later_steps(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    import matplotlib.image

    matplotlib.image.imsave(tmp_path / "crops.png", [[0.0, 1.0]])
    trackers = Trackers(("tensorboard",), Facts("demo-123", str(tmp_path), {}))
    for step in (1, 2, 3):
        trackers.metrics(step, {"loss": 2.0})
    trackers.close()
    result = {"dataset": "ucf101", "protocol": "knn", "splits": ["train1", "test1"], "seed": 1}
    result |= {"rows": [{"metric": "video@1", "value": 0.5}]}
    assert track_pictures(("tensorboard",), tmp_path, 2, ("crops.png", "absent.png")) == []
    assert track_results(("tensorboard",), tmp_path, 2, [result]) == []
    found = loader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in found.Scalars("loss")] == [1, 2, 3]
    (event,) = found.Scalars("ucf101/knn/test1-seed1/video_1")  # TensorBoard has no @
    assert (event.step, event.value) == (2, 0.5)
    assert found.Images("crops")[0].encoded_image_string == (tmp_path / "crops.png").read_bytes()


def test_trackers_are_checked_without_torch() -> None:
    """A finished run, which only checks them, is recognised in a second."""
    code = "import sys; from paramcrop.training.tracking.trackers import check_trackers; "
    code += "check_trackers(['tensorboard']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
