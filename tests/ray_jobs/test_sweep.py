"""The command line of sweeps: errors, a sweep with many faults, kills, and runs that two sweeps share."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from paramcrop.report.page import read_table
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.mirror import folders_in
from paramcrop.storage.results import read_result
from paramcrop.storage.runs import read_status
from paramcrop.sweeps.record import TrialRecord, read_records
from tests.bucket import NAME, s3_server
from tests.labelled import make_labelled
from tests.ray_jobs.commands import ROOT, Command, steps_done, write_space


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "ray_jobs" / "sweep.py"), *arguments]
    environment = os.environ | {"PARAMCROP_HOME": str(home), "COLUMNS": "200", "RAY_ADDRESS": "local"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home, check=False)


def by_label(home: Path, name: str) -> dict[str, TrialRecord]:
    return {record.label: record for record in read_records(home / "sweeps" / name)}


@pytest.mark.parametrize(
    ("arguments", "fields", "message"),
    [
        ("--space absent", {}, "--space must be a file, or one of crop_search, es_bounds"),
        ("--space {space} cropper.lowr=1", {}, "cropper.lowr is not a setting; the nearest is cropper.lower"),
        ("--space {space} --task knm", {}, "a protocol must be one of"),
        ("--space {space} --task nowhere/knn", {}, "--data must name the folder of 'nowhere'"),
        ("--space {space} --data a=/nowhere", {}, "/nowhere has no manifest.json"),
        ("--space {space} --seeds one", {}, "--seeds must be whole numbers separated by commas, but is 'one'"),
        (
            "--space {space} --dry-run --cluster absent",
            {},
            "--cluster must be a readable file or one of aws, gcp, raycluster, rayjob: absent",
        ),
        ("--space {space}", {"params": {"cropper.lower": [0.9]}}, "lower=0.9: cropper.lower <= upper must hold"),
        ("--space {space}", {"objective": {"metric": "knn"}}, "objective.metric must be of one of validation"),
        ("--space {space}", {"evaluate": {"set": {"sise": 3}}}, "has the parameters frames, stride, size"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, arguments: str, fields: dict[str, Any], message: str
) -> None:
    space = write_space(tmp_path / "mine.yaml", **({"params": {"cropper.lower": [0.1]}} | fields))
    done = run(tmp_path, *arguments.format(space=space).split())
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_a_dry_run_lists_trials_shared_runs_and_a_planned_cluster(tmp_path: Path) -> None:
    variants = [{"label": "two", "set": {"cropper.layers": 2}}, {"label": "as it is"}]
    space = write_space(tmp_path / "mine.yaml", variants=variants)
    (tmp_path / "nodes.yaml").write_text("[{cpus: 96, gpus: 8, count: 2}, {cpus: 16}]")
    done = run(tmp_path, "--space", space, "--dry-run", "--cluster", "nodes.yaml")
    assert done.returncode == 0, done.stderr
    assert re.search(r"2\. [0-9a-f]{6} as it is: new; runs: seed 0 new, shared with two", done.stdout)
    assert "pretrainings: 1, 0 of them finished" in done.stdout
    assert "3 node(s), 208 CPUs, 16 GPUs = 2 trial(s) at once" in done.stdout
    assert not (tmp_path / "sweeps").exists() and not (tmp_path / "runs").exists()


@pytest.mark.ray
def test_a_sweep_with_many_faults_ends_reports_them_and_leaves_nothing_alive(tmp_path: Path) -> None:
    """A non-finite loss, an evaluation that raises, and a killed worker; then the same command again."""
    impossible = {"optim.lr": 1e30, "optim.warmup_epochs": 0}
    variants = [{"label": "good"}, {"label": "impossible", "set": impossible}]
    space = write_space(tmp_path / "mine.yaml", variants=variants)
    good, bad = make_labelled(tmp_path / "good"), make_labelled(tmp_path / "bad", seed=1)
    for shard in Path(bad).glob("*.parquet"):
        shard.write_bytes(b"no parquet")
    arguments = ["--space", space, "--data", f"good={good}", f"bad={bad}"]
    script = "../tests/ray_jobs/sweep_and_list.py"
    command = Command(tmp_path, script, *arguments)
    command.until(lambda: any(steps_done(folder) >= 4 for folder in (tmp_path / "runs").glob("demo-*")))
    command.kill(*command.pids("ray::RayTrainWorker"))
    assert command.wait(400) == 1, command.text[-3000:]
    text = command.text
    assert 'alive: {"actors": [], "groups": []}' in text
    records = by_label(tmp_path, "mine")
    first, second = records["good"], records["impossible"]
    assert (first.state, second.state) == ("failed", "diverged")
    assert "bad/validation-retrieval" in first.failures[0] and "cannot read" in first.failures[0]
    assert (
        read_status(Path(first.runs[0]["folder"]))["state"] == "finished"
    )  # a failed evaluation does not affect the pretraining
    assert [Path(file).exists() for file in first.results] == [True]
    assert "the loss must be finite" in second.runs[0]["error"]
    for message in ("cannot read", "the loss must be finite", "2 of 2 trials failed, such as good"):
        assert message in text, text[-3000:]
    starts = read_lines(Path(first.runs[0]["folder"]) / "history.jsonl")
    assert len([line for line in starts if line["event"] == "workers"]) == 2  # the killed worker restarted


@pytest.mark.ray
def test_a_search_sets_its_runs_and_learns_how_they_end_even_if_stopped(tmp_path: Path) -> None:
    params = {"cropper.lower": {"uniform": [0.0, 0.4]}, "cropper.hidden": {"choice": [8, 16]}}
    fields = {"search": "tpe", "samples": 2, "scheduler": "asha", "proxy": {"every": 1, "grace": 4}}
    space = write_space(tmp_path / "mine.yaml", epochs=6, params=params, **fields)
    command = Command(tmp_path, "../tests/ray_jobs/sweep_and_list.py", "--space", space)
    command.until(lambda: any(steps_done(folder) for folder in tmp_path.glob("runs/demo-*")))
    for folder in tmp_path.glob("runs/demo-*"):
        (folder / "stop").touch()  # as the scheduler does; it compares no trial before epoch 4
    assert command.wait(400) == 0, command.text[-3000:]
    assert 'alive: {"actors": [], "groups": []}' in command.text
    records = read_records(tmp_path / "sweeps" / "mine")
    assert [record.state for record in records] == ["pruned", "done"]
    assert read_status(Path(records[0].runs[0]["folder"]))["state"].startswith("stopped@")
    assert 1 <= records[1].epoch <= 5 and records[1].proxy is not None  # the last epoch has no proxy
    for record in records:
        config = yaml.safe_load((Path(record.runs[0]["folder"]) / "config.yaml").read_text())
        assert {f"cropper.{key}": config["cropper"][key] for key in ("lower", "hidden")} == record.values
    assert records[0].values != records[1].values
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "sweeps" / "mine" / "study.journal")))
    (name,) = optuna.get_all_study_names(storage)
    ended = {str(t.params): (t.state.name, t.value) for t in optuna.load_study(study_name=name, storage=storage).trials}
    names = {"pruned": "PRUNED", "done": "COMPLETE"}
    expected = {str(r.values): (names[r.state], r.objective if r.state == "done" else None) for r in records}
    assert ended == expected


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_driver_loses_no_finished_work(tmp_path: Path) -> None:
    space = write_space(tmp_path / "mine.yaml", params={"cropper.lower": [0.1, 0.3]}, seeds=[0, 1])
    complete, cut = tmp_path / "complete", tmp_path / "cut"
    undisturbed = Command(complete, "sweep.py", "--space", space)
    assert undisturbed.wait(600) == 0, undisturbed.text[-3000:]
    command = Command(cut, "sweep.py", "--space", space)
    command.until(lambda: len(list(cut.glob("runs/*/evaluations/*.json"))) == 2, 400)  # of the first trial
    command.until(lambda: len(list(cut.glob("runs/demo-*"))) == 3)
    command.kill_all()
    done = {file: file.stat().st_mtime_ns for file in cut.glob("runs/*/evaluations/*.json")}
    finished = {f: f.stat().st_mtime_ns for f in cut.glob("runs/*/status.json") if "finished" in f.read_text()}
    assert len(done) == 2 and len(finished) == 2
    again = Command(cut, "sweep.py", "--space", space)
    assert again.wait(600) == 0, again.text[-3000:]
    assert "1/1 trials" in again.text
    assert done.items() <= {file: file.stat().st_mtime_ns for file in cut.glob("runs/*/evaluations/*.json")}.items()
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert objectives(complete) == objectives(cut) and len(objectives(cut)) == 4
    start = time.monotonic()
    third = run(cut, "--space", space)
    assert "nothing to do; finished trials: 2" in third.stdout and third.returncode == 0
    print(f"nothing to do: {time.monotonic() - start:.1f} s")
    changed = run(cut, "--space", space, "--dry-run", "train.max_steps=5")
    assert changed.stdout.count("done, but the space has changed since; runs: seed 0 new") == 2


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("evaluating", [False, True])
def test_ctrl_c_ends_a_sweep_in_one_line_and_the_same_command_resumes(tmp_path: Path, evaluating: bool) -> None:
    space = write_space(tmp_path / "mine.yaml", epochs=6, params={"cropper.lower": [0.1, 0.3]})
    command = Command(tmp_path, "sweep.py", "--space", space)
    done = "finished" if evaluating else "running"
    command.until(lambda: any(done in file.read_text() for file in tmp_path.glob("runs/demo-*/status.json")))
    command.until(lambda: evaluating or any(steps_done(folder) >= 12 for folder in tmp_path.glob("runs/demo-*")))
    command.process.send_signal(signal.SIGINT)
    assert command.wait(90) == 130, command.text[-3000:]
    assert command.text.splitlines()[-1].startswith("interrupted; finished work is kept"), command.text[-3000:]
    assert "Traceback" not in command.text
    assert [row.record.state for row in read_table(tmp_path / "sweeps" / "mine").rows] == ["interrupted", "waiting"]
    (folder,) = tmp_path.glob("runs/demo-*")
    again = Command(tmp_path, "sweep.py", "--space", space)
    assert again.wait(400) == 0, again.text[-3000:]
    assert [record.state for record in read_records(tmp_path / "sweeps" / "mine")] == ["done", "done"]
    starts = [line["epoch"] for line in read_lines(folder / "history.jsonl") if line["event"] == "workers"]
    assert starts == [0] if evaluating else len(starts) == 2 and starts[1] >= 2  # it had 12 of 24 steps, 4 an epoch


def objectives(home: Path) -> dict[str, list[Any]]:
    """Eval id -> the rows of its result."""
    files = home.glob("runs/*/evaluations/*.json")
    return {file.stem: result["rows"] for file in files if (result := read_result(file)) is not None}


@pytest.mark.ray
@pytest.mark.slow
def test_two_sweeps_share_their_runs_started_together_or_one_after_the_other(tmp_path: Path) -> None:
    first = write_space(tmp_path / "first.yaml", params={"cropper.lower": [0.1, 0.2]})
    second = write_space(tmp_path / "second.yaml", params={"cropper.lower": [0.2, 0.1]})
    third = write_space(tmp_path / "third.yaml", params={"cropper.lower": [0.2, 0.4]})
    home = tmp_path / "home"
    together = [Command(home, "sweep.py", "--space", space) for space in (first, second)]
    for command in together:
        assert command.wait(600) == 0, command.text[-3000:]
    runs = sorted(home.glob("runs/demo-*"))
    assert len(runs) == 2
    for folder in runs:
        events = [line["event"] for line in read_lines(folder / "history.jsonl")]
        assert events.count("running") == events.count("finished") == 1
    before = {file: file.stat().st_mtime_ns for file in home.glob("runs/*/status.json")}
    after = Command(home, "sweep.py", "--space", third)
    assert after.wait(600) == 0, after.text[-3000:]
    assert len(list(home.glob("runs/demo-*"))) == 3
    assert before == {file: file.stat().st_mtime_ns for file in before}
    lines = [line for run in home.glob("runs/demo-*") for line in read_lines(run / "results.jsonl")]
    assert len({(line["eval_id"], line["metric"]) for line in lines}) == len(lines)  # nothing was evaluated twice
    evaluated = {file.stem for file in home.glob("runs/*/evaluations/*.json")}
    assert evaluated and {line["eval_id"] for line in lines} == evaluated


@pytest.mark.ray
@pytest.mark.slow
def test_the_runs_of_a_sweep_may_be_in_a_bucket(tmp_path: Path) -> None:
    space = write_space(tmp_path / "mine.yaml", params={"policy": ["random", "paramcrop"]})
    with s3_server():
        arguments = ("--space", space, f"run.storage={NAME}/runs")
        done = run(tmp_path, *arguments, "--quiet")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert len(folders_in(f"{NAME}/runs")) == 3 and folders_in(f"{NAME}/runs/sweeps") == ["mine"]
        assert not (tmp_path / "runs").exists() and not (tmp_path / "sweeps").exists()
        again, dry = run(tmp_path, *arguments), run(tmp_path, *arguments, "--dry-run")
    assert "nothing to do; finished trials: 2" in again.stdout
    assert "pretrainings: 2, 2 of them finished" in dry.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_seeds_are_added_until_there_are_no_more_or_the_comparison_is_resolved(tmp_path: Path) -> None:
    variants = [{"label": "a"}, {"label": "b", "set": {"cropper.layers": 2}}]
    until = {"resolved": ["a", "b"], "most_seeds": 2}
    space = write_space(tmp_path / "mine.yaml", variants=variants, until=until)
    done = run(tmp_path, "--space", space, "--quiet")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "± unknown % after 1 seed, not resolved; one more seed of each" in done.stdout
    found = by_label(tmp_path, "mine")
    assert {label: [run["seed"] for run in record.runs] for label, record in found.items()} == {
        "a": [0, 1],
        "b": [0, 1],
    }
    assert len(list(tmp_path.glob("runs/demo-*"))) == 4
    again = run(tmp_path, "--space", space)
    assert "nothing to do; finished trials: 2" in again.stdout and "after 2 seeds, not resolved" in again.stdout
    assert "after 2 seeds, not resolved" in (tmp_path / "sweeps" / "mine" / "table.md").read_text()
