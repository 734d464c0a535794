"""The command line of evaluation: its one-line errors, then a run on Ray in which an evaluator is killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from paramcrop.data.synthetic import cached_dataset
from paramcrop.evaluation.evaluate import evaluate
from paramcrop.evaluation.job import Job
from paramcrop.evaluation.tasks import make_jobs
from paramcrop.evaluation.weights import random_backbone
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.results import read_result
from ray_jobs.evaluate import report
from ray_jobs.evaluate.command import track
from ray_jobs.evaluate.options import find_data, make_request, parse_arguments
from ray_jobs.evaluate.report import by_task
from tests.labelled import BROKEN, RANKS, SMALL, TEST, make_job
from tests.memory import tiny_config
from tests.ray_jobs.commands import Command

ROOT = Path(__file__).resolve().parents[2]
TRAINING = ("epochs=8", "batch=16")


@pytest.fixture
def home(tiny_run: Path, tmp_path: Path) -> Path:
    """A home with the tiny run under runs/."""
    shutil.copytree(tiny_run, tmp_path / "runs" / "tiny", ignore=shutil.ignore_patterns("evaluations", "features"))
    return tmp_path


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "ray_jobs" / "evaluate.py"), *arguments]
    environment = os.environ | {"PARAMCROP_HOME": str(home), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "--run is needed, because {home}/runs has no finished demo; `paramcrop pretrain` makes one"),
        ("--run absent", "--run must be the folder of a run, but neither {home}/absent nor {home}/runs/absent is one"),
        ("--run tiny --data set", "--data must be NAME=FOLDER, but is 'set'"),
        ("--run tiny --data set=/nowhere", "/nowhere has no manifest.json"),
        ("--run tiny --data set={set} --task sett/knn", "--data must name the folder of 'sett'; the nearest is set"),
        ("--run tiny --data set={set} --task set/kn", "a protocol must be one of paper-finetune, "),
        ("--run tiny --data set={set} --set sise=3", "has the parameters frames, stride, size, "),
        ("--run tiny --data set={set} --set size=two", "size: must be a whole number"),
        ("--run tiny --data set={set} --set size", "an override must be key=value, but is 'size'"),
        ("--run tiny --data set={set} --splits 4", "--splits must be unset, because the dataset has a single split"),
        ("--run tiny --data set={set} --splits a", "--splits must be whole numbers separated by commas, but is 'a'"),
        ("--run tiny --data set={set} --epoch 9", "--epoch must be that of a checkpoint of {home}/runs/tiny (1, 2),"),
        (
            "--run tiny --data set={set} --weights absent.pt",
            "weights must be a readable file: {home}/absent.pt",
        ),
        ("--run tiny --data set={set} --prefix a=b", "--prefix needs --weights"),
        (
            "--run tiny --data set={set} --task set/teacher",
            "only a run with method=mean_teacher has a classifier to test",
        ),
        (
            "--run tiny --data set={set} --task set/retrieval",
            "needs 50 training videos for R@50, but searches 40 of split",
        ),
        (
            "--run tiny --data set={set} --task set/knn --set neighbours=41",
            "needs 41 training videos, but split train has",
        ),
        ("--run tiny --nonsense", "unrecognized arguments: --nonsense"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(home: Path, labelled: str, arguments: str, message: str) -> None:
    done = run(home, *arguments.format(set=labelled).split())
    assert done.returncode == 2, done.stdout + done.stderr
    assert message.format(home=home) in done.stderr and done.stderr.count("\n") == 1


def test_foreign_weights_are_tried_before_ray_starts_and_sizes_are_warned_of(home: Path, labelled: str) -> None:
    state = random_backbone(tiny_config(), 1).state_dict()
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, home / "old.pt")
    torch.save(old | {"stem.0.weight": old["stem.0.weight"] * torch.nan}, home / "nan.pt")
    asked = ["--run", "tiny", "--data", f"set={labelled}", "--task", "knn"]
    done = run(home, *asked, "--weights", "old.pt", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"note: {home}/old.pt has no num_batches_tracked, so the " in done.stdout
    done = run(home, *asked, "--weights", "nan.pt")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "values of stem.0.weight in" in done.stderr and "weights must be finite, but" in done.stderr
    made = cached_dataset(home / "data", 8, 32, 64, test=32)
    done = run(home, "--run", "tiny", "--data", f"set={made}", "--task", "knn", "--dry-run")
    assert "warning: set/knn: clips of 224 x 224 pixels are enlarged from 28 x 28, because" in done.stdout


def test_help_is_quick_and_needs_no_torch() -> None:
    script = "import sys\nfrom ray_jobs.evaluate.command import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    script += "print([m for m in ('torch', 'ray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "paper-retrieval-10clip" in done.stdout and done.stdout.splitlines()[-1] == "[]"


def test_every_evaluation_is_requested_once(tiny_run: Path, labelled: str) -> None:
    arguments = parse_arguments(
        [
            *("--run", "x", "--data", f"a={labelled}", "--seeds", "0,1", "--baseline", "random-init", "pixels"),
            "--set",
            RANKS,
        ],
        "",
    )
    data = find_data(arguments, tiny_config())
    jobs = make_jobs(make_request(arguments, data, tiny_config()), [tiny_run, tiny_run])
    counts = {name: sum(job.subject == name for job in jobs) for name in ("run", "random-init", "pixels")}
    assert counts == {"run": 6, "random-init": 6, "pixels": 3}  # three protocols, two seeds; pixels have no seed
    assert len({job.eval_id for job in jobs}) == len(jobs)


def test_runs_come_before_baselines_in_a_table(
    tiny_run: Path, labelled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = shutil.copytree(tiny_run, tmp_path / "other")
    settings = yaml.safe_load((other / "config.yaml").read_text())
    (other / "config.yaml").write_text(yaml.safe_dump(settings | {"policy": "manual"}))
    arguments = parse_arguments(["--run", "x", "--data", f"a={labelled}", "--baseline", "pixels", "--set", RANKS], "")
    request = make_request(arguments, find_data(arguments, tiny_config()), tiny_config())
    jobs = [job for run in (tiny_run, other) for job in make_jobs(request, [run])]
    monkeypatch.setattr(report, "read_result", lambda file: {"file": str(file)})
    tasks = by_task(jobs)
    assert len(tasks) == 3
    assert [list(found) for found in tasks.values()] == [["policy=paramcrop", "policy=manual", "pixels"]] * 3


def test_an_evaluations_id_changes_exactly_when_the_evaluation_does(tiny_run: Path, labelled: str) -> None:
    job = make_job(tiny_run, labelled, "paper-finetune")
    changed = [
        make_job(tiny_run, labelled, "paper-linear"),
        make_job(tiny_run, labelled, "paper-finetune", "lr=0.1"),
        make_job(tiny_run, labelled, "paper-finetune", seed=1),
        make_job(tiny_run, labelled, "paper-finetune", subject="random-init"),
        *(_with(job, **{name: value}) for name, value in (("epoch", 1), ("data_id", "x"), ("test", "val"))),
        _with(job, run_id="another"),
    ]
    assert len({one.eval_id for one in (job, *changed)}) == 1 + len(changed)
    elsewhere = _with(job, run="/elsewhere", folder="/other", checkpoint="/c", dataset="another name")
    workers = _with(job, config=job.config | {"train": job.config["train"] | {"workers": 4}})
    assert job.eval_id == elsewhere.eval_id == workers.eval_id
    assert job.eval_id == "b2fcc4d26174"  # golden: it must never change by accident


def _with(job: Job, **fields: Any) -> Job:
    from dataclasses import replace

    return replace(job, **fields)


@pytest.mark.ray
def test_an_evaluator_killed_during_fine_tuning_gives_the_same_result(home: Path, labelled: str) -> None:
    arguments = ["--run", "tiny", "--data", f"made-up={labelled}", "--task", "made-up/finetune", "made-up/retrieval"]
    arguments += ["--set", *SMALL, *TRAINING, RANKS]
    folder = home / "runs" / "tiny"
    job = make_job(folder, labelled, "paper-finetune", *TRAINING)
    command = Command(home, "evaluate.py", *arguments)
    command.until(lambda: list((job.work / "checkpoints").glob("epoch=000[2-5]")))
    command.kill(*command.pids("ray::Evaluator"))
    assert command.wait() == 0, command.text
    assert f"{TEST - BROKEN} of {TEST}" in command.text and "2 evaluations in" in command.text
    result = read_result(job.result_file)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = evaluate(_with(job, run=str(home / "undisturbed")), torch.device("cpu"), map)
    torch.set_num_threads(threads)
    assert result is not None
    timed = {"seconds"}
    assert {k: v for k, v in result.items() if k not in timed} == {
        k: v for k, v in json.loads(json.dumps(expected)).items() if k not in timed
    }
    assert [failure["id"] for failure in result["failed"]["test"]]
    lines = len(read_lines(folder / "results.jsonl"))
    again = run(home, *arguments)
    assert again.returncode == 0 and "2 evaluations, 2 of them already finished" in again.stdout
    assert "0 evaluations in" in again.stdout and len(read_lines(folder / "results.jsonl")) == lines
    pictures = {path.name.rpartition("-")[2] for path in (folder / "pictures").iterdir()}
    assert pictures == {"classes.png", "confusion.png", "neighbours.png"}


def test_new_results_reach_the_trackers_of_their_run(tiny_run: Path, labelled: str, tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "tiny"
    shutil.copytree(tiny_run, run)
    job = make_job(run, labelled, "knn")
    result = {"dataset": job.dataset, "protocol": "knn", "splits": [job.train, job.test], "seed": 0}
    job.result_file.parent.mkdir(parents=True, exist_ok=True)
    job.result_file.write_text(json.dumps(result | {"eval_id": job.eval_id, "rows": [{"metric": "n", "value": 0.25}]}))
    assert track([job]) == []
    found = loader.EventAccumulator(str(run / "tensorboard")).Reload()
    (event,) = found.Scalars(f"{job.dataset}/knn/{job.test}/n")
    assert event.value == 0.25 and event.step == json.loads((Path(job.checkpoint) / "meta.json").read_text())["step"]
