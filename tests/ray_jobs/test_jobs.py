"""Complete jobs on a Ray head that the test starts: both forms of `ray job submit`, with one worker and with two."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paramcrop.report.page import read_table
from paramcrop.storage.checkpoint import load_checkpoint, newest_checkpoint
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.runs import read_metrics
from tests.memory import TINY
from tests.ray_jobs.commands import Command, without_a_cluster, write_space
from tests.ray_jobs.conftest import ROOT, Head

pytestmark = pytest.mark.ray

ACTORS = """
import collections, json, ray
from ray._private.state import actors
ray.init(address="auto")
names = [actor["ActorClassName"] for actor in actors().values()]
print("actors:", json.dumps(collections.Counter(name for name in names if name[0] != "_" and name != "JobSupervisor")))
"""  # dead or alive, except those of the submission and those that Ray Data keeps for the cluster
WHERE = """
import importlib, ray
from ray_jobs.engine.connect import connect
connect(ray_logs=False)
find = lambda: importlib.import_module("paramcrop").__file__
print("code:", find(), ray.get(ray.remote(find).remote()))
"""
# Normalisation that does not depend on the batch, so that one worker and two can be compared.
SETTINGS = (*TINY, "data.random_cube=true", "backbone.norm=group", "train.max_steps=5", "run.log_every=1")


@pytest.fixture(scope="module")
def runs(head: Head) -> dict[str, tuple[subprocess.CompletedProcess[str], Path]]:
    """One submission of each form: (the submission, the run's folder)."""
    command = ("python", "ray_jobs/pretrain.py", *SETTINGS)
    forms = {
        "one worker": ((*command, "run.name=one"), ()),
        "two workers": ((*command, "run.name=two", "train.workers=2"), ("--working-dir", ".")),
    }
    done = {}
    for name, (line, options) in forms.items():
        storage = head.home / name.replace(" ", "-")  # one each: both have the same run id, so the second would not run
        submitted = head.submit(*line, f"run.storage={storage}", options=options)
        folders = sorted(storage.glob(f"{name.split()[0]}-*"))
        done[name] = (submitted, folders[0] if folders else storage)
    return done


@pytest.mark.parametrize("form", ["one worker", "two workers"])
def test_both_forms_of_submission_run_to_the_end(
    runs: dict[str, tuple[subprocess.CompletedProcess[str], Path]], form: str
) -> None:
    submitted, folder = runs[form]
    assert submitted.returncode == 0, submitted.stdout[-3000:] + submitted.stderr[-3000:]
    assert "5 steps in" in submitted.stdout
    assert [m["step"] for m in read_metrics(folder)] == [1, 2, 3, 4, 5]
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "provenance.json", "figure5.png", "crops.png", "samples.jsonl", "tensorboard"} <= names
    newest, _ = newest_checkpoint(folder)
    assert newest is not None
    assert load_checkpoint(newest)[1]["step"] == 5


def test_one_worker_and_two_see_the_same_batches_and_the_same_losses(
    runs: dict[str, tuple[subprocess.CompletedProcess[str], Path]],
) -> None:
    one, two = runs["one worker"][1], runs["two workers"][1]
    assert read_lines(one / "samples.jsonl") == read_lines(two / "samples.jsonl")
    assert len(read_lines(one / "samples.jsonl")) == 5
    for first, second in zip(read_metrics(one), read_metrics(two), strict=True):
        for name in ("loss", "crop_distance", "crop_iou", "source_distance", "similarity_positive"):
            assert second[name] == pytest.approx(first[name], abs=1e-4), (first["step"], name)


@pytest.mark.usefixtures("runs")
def test_a_pretraining_has_only_its_workers_and_ray_trains_own_actors(head: Head) -> None:
    """The actors of two runs, with one worker and with two. Decoding has no actors."""
    found = head.submit("python", "-c", ACTORS).stdout
    once = ("DatasetManager", "PlacementGroupCleaner", "PreemptionWatcher", "SplitCoordinator")
    counts = dict.fromkeys((*once, "SynchronizationActor", "TrainController"), 2) | {"RayTrainWorker": 3}
    assert json.loads(found.partition("actors: ")[2].partition("\n")[0]) == counts, found


@pytest.mark.slow
def test_a_small_sweep_can_be_submitted(head: Head) -> None:
    space = write_space(head.home / "small.yaml", params={"policy": ["random", "paramcrop"]})
    submitted = head.submit("python", "ray_jobs/sweep.py", "--space", space, "--quiet")
    assert submitted.returncode == 0, submitted.stdout[-3000:] + submitted.stderr[-3000:]
    table = read_table(head.home / "paramcrop" / "sweeps" / "small")
    assert [(row.record.state, len(row.runs), bool(row.cells)) for row in table.rows] == [("done", 1, True)] * 2


def test_a_mistake_fails_the_job_in_one_line(head: Head) -> None:
    submitted = head.submit("python", "ray_jobs/pretrain.py", "cropper.layer=3")
    assert submitted.returncode == 1
    assert "error: cropper.layer is not a setting; the nearest is cropper.layers" in submitted.stdout + submitted.stderr
    assert "Traceback" not in submitted.stdout


def test_a_working_directory_brings_its_own_code(head: Head) -> None:
    """Both the command and its workers use that code, even if another version is installed."""
    submitted = head.submit("python", "-c", WHERE, options=("--working-dir", "."))
    assert submitted.returncode == 0, submitted.stdout[-3000:] + submitted.stderr[-3000:]
    found = submitted.stdout.partition("code: ")[2].partition("\n")[0].split()
    assert len(found) == 2 and all("/working_dir_files/" in file for file in found), found


def test_a_job_with_the_wrong_token_is_rejected(head: Head) -> None:
    stranger = replace(head, env=head.env | {"RAY_AUTH_TOKEN": "another"})
    submitted = stranger.submit("python", "-c", "print('in')")
    assert submitted.returncode != 0
    assert "in\n" not in submitted.stdout


def test_workers_run_the_clone_of_the_command(tmp_path: Path) -> None:
    """The command starts in another folder, with a copy on PYTHONPATH that keeps crops of three videos, not four."""
    for name in ("paramcrop", "ray_jobs"):
        shutil.copytree(ROOT / name, tmp_path / "clone" / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "clone" / "pyproject.toml").touch()
    recorder = tmp_path / "clone" / "paramcrop" / "training" / "recorder.py"
    assert "PROBE = 4" in recorder.read_text()
    recorder.write_text(recorder.read_text().replace("PROBE = 4", "PROBE = 3"))
    home, env = tmp_path / "home", without_a_cluster() | {"PYTHONPATH": str(tmp_path / "clone")}
    command = Command(home, str(tmp_path / "clone" / "ray_jobs" / "pretrain.py"), *TINY, "train.max_steps=1", env=env)
    assert command.wait() == 0, command.text[-3000:]
    (kept,) = (home / "runs").glob("*/crops/step=0000000.npz")
    assert len(np.load(kept)["id"]) == 3
