"""Real kills: whatever is killed, the run ends like an undisturbed one, bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from paramcrop.storage.checkpoint import newest_checkpoint
from paramcrop.storage.jsonl import read_lines
from tests.ray_jobs.commands import Command, left, steps_done

pytestmark = pytest.mark.ray

STEPS = 48  # six epochs of eight steps
SETTINGS = (
    *("run.storage=runs", f"train.max_steps={STEPS}", "run.checkpoint_epochs=1", "run.log_every=1"),
    *("optim.name=lars", "augment.jitter=0.8"),
)


def start(home: Path, *more: str, env: dict[str, str] | None = None) -> tuple[Command, Path]:
    """Start the command and wait for its run's folder."""
    command = Command(home, "pretrain.py", *SETTINGS, *more, env=env)
    command.until(lambda: any((home / "runs").glob("demo-*[0-9a-f]")))
    return command, next((home / "runs").glob("demo-*[0-9a-f]"))


def finish(home: Path, *more: str) -> tuple[Path, str]:
    """Run the same command to its end -> (the run's folder, its output)."""
    command, folder = start(home, *more)
    assert command.wait() == 0, command.text[-3000:]
    return folder, command.text


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    return finish(tmp_path_factory.mktemp("undisturbed"))[0]


@pytest.fixture(scope="module")
def expected(undisturbed: Path) -> dict[str, Any]:
    """What the undisturbed run left."""
    return left(undisturbed)


def recovered(folder: Path, at: float) -> str:
    """The time from ``at`` (seconds since 1970) until the workers were back, as text."""
    event = [line for line in read_lines(folder / "history.jsonl") if line["event"] == "workers"][-1]
    return f"killed at {at:.1f}, workers back {event['time'] - at:.1f} s later, from step {event['step']}"


def test_a_killed_worker_and_then_a_killed_driver(tmp_path: Path, expected: Any) -> None:
    """After kill -9 of the worker, the run resumes by itself; after kill -9 of the driver, with the same command."""
    command, folder = start(tmp_path)
    command.until(lambda: steps_done(folder) >= 12)
    command.kill(*command.pids("ray::RayTrainWorker"))
    command.until(lambda: len([e for e in read_lines(folder / "history.jsonl") if e["event"] == "workers"]) == 2)
    events = [e for e in read_lines(folder / "history.jsonl") if e["event"] == "workers"]
    assert 8 <= events[1]["step"] < 40 and events[1]["step"] % 8 == 0
    command.until(lambda: steps_done(folder) >= events[1]["step"] + 10)
    command.kill(command.process.pid)
    command.process.wait()
    assert f"workers restarted from step {events[1]['step']}" in command.text
    again, text = finish(tmp_path)
    assert again == folder
    assert f"resuming from {newest_name(events[1]['step'] // 8 + 1)}" in text
    assert left(folder) == expected


def newest_name(epoch: int) -> str:
    return f"epoch={epoch:04d}"


def test_a_finished_run_is_recognised_within_five_seconds_and_left_alone(undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    begun = time.monotonic()
    _, text = finish(undisturbed.parents[1])
    assert time.monotonic() - begun < 5
    assert f"already finished: {undisturbed} ({STEPS} steps); --fresh starts it afresh" in text
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


@pytest.mark.slow
def test_fresh_starts_over_and_keeps_the_old_run(undisturbed: Path, expected: dict[str, Any]) -> None:
    _, text = finish(undisturbed.parents[1], "--fresh")
    assert f"{undisturbed.name}~1" in text
    assert left(undisturbed) == left(undisturbed.with_name(f"{undisturbed.name}~1")) == expected


def kept_at_the_step_reached(command: Command, folder: Path, step: int) -> str:
    """The name of the checkpoint that an interrupted run has saved, which it said in its one last line."""
    (within,) = (folder / "checkpoints").glob("epoch=*-step=*")
    reached = int(within.name.rpartition("=")[2])
    assert reached >= step
    last = f"interrupted; the run is kept up to step {reached} of {STEPS}, and the same command continues from there"
    assert command.text.splitlines()[-1] == last
    assert "***" not in command.text and "Traceback" not in command.text
    return within.name


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", ["worker", "decoder", "driver", "ctrl-c", "sigterm", "all-sigterm", "everything", "torn", "stop"]
)
def test_kills(tmp_path: Path, expected: Any, what: str) -> None:
    """Each case prints a line of the kill table, with `-s`."""
    command, folder = start(tmp_path)
    if what != "decoder":  # decoding is ahead of training and ends early
        command.until(lambda: steps_done(folder) >= 20)
    at, killed_at = time.time(), steps_done(folder)
    again, kept = what not in ("worker", "decoder"), "epoch="
    if what == "worker":
        command.kill(*command.pids("ray::RayTrainWorker"))
    elif what == "decoder":
        for title in ("paramcrop.data.killable", "ray::MapBatches"):
            command.until(partial(command.pids, title))  # between tasks, the process has another title
            command.kill(*command.pids(title))
    elif what in ("driver", "torn"):
        command.kill(command.process.pid)
    elif what == "ctrl-c":
        os.killpg(command.process.pid, signal.SIGINT)  # as a terminal does
        assert command.wait(90) == 130
        kept = kept_at_the_step_reached(command, folder, killed_at)
    elif what == "sigterm":  # as `ray job stop` and the end of a pod send it
        command.process.send_signal(signal.SIGTERM)
        assert command.wait(90) == 143
        kept = kept_at_the_step_reached(command, folder, killed_at)
    elif what == "all-sigterm":  # as Slurm and `timeout` send it: it ends Ray as well
        os.killpg(command.process.pid, signal.SIGTERM)
        assert command.wait(90) == 143, command.text[-3000:]
        if list((folder / "checkpoints").glob("epoch=*-step=*")):  # else Ray ended before the worker had saved
            kept = kept_at_the_step_reached(command, folder, killed_at)
        assert command.text.splitlines()[-1].startswith("interrupted; the run is kept up to step ")
    elif what == "everything":
        command.kill_all()
    else:
        (folder / "stop").touch()
    command.process.wait(120)
    if what == "torn":
        newest, _ = newest_checkpoint(folder)
        assert newest is not None
        (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:1000])
    if again:
        at = time.time()
        _, text = finish(tmp_path)
        assert f"resuming from {kept}" in text
        assert ("skipped a damaged checkpoint: epoch=" in text) is (what == "torn")
    print(f"\n{what}: at step {killed_at}, {recovered(folder, at)}")
    assert left(folder) == expected
    deadline = time.monotonic() + 20
    while command.pids() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert command.pids() == []  # nothing is left behind


@pytest.mark.slow
def test_one_of_two_workers_is_killed(tmp_path: Path) -> None:
    expected = left(finish(tmp_path / "undisturbed", "train.workers=2")[0])
    command, folder = start(tmp_path / "killed", "train.workers=2")
    command.until(lambda: steps_done(folder) >= 20)
    at, killed_at = time.time(), steps_done(folder)
    command.kill(command.pids("ray::RayTrainWorker")[1])
    assert command.wait() == 0, command.text[-3000:]
    print(f"\none of two workers: at step {killed_at}, {recovered(folder, at)}")
    assert left(folder) == expected
    command, folder = start(tmp_path / "driver", "train.workers=2")
    command.until(lambda: steps_done(folder) >= 20)
    command.kill(command.process.pid)
    command.process.wait()
    at = time.time()
    finish(tmp_path / "driver", "train.workers=2")
    print(f"driver of two workers: {recovered(folder, at)}")
    assert left(folder) == expected


@pytest.mark.slow
def test_two_commands_cannot_work_on_one_run(tmp_path: Path) -> None:
    command, folder = start(tmp_path)
    command.until(lambda: steps_done(folder) >= 1)
    second = Command(tmp_path, "pretrain.py", *SETTINGS)
    assert second.wait(20) == 1
    assert f"process {command.process.pid} on" in second.text and second.text.count("error: ") == 1
    assert command.wait() == 0


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_resumes_once_there_is_space(
    tmp_path: Path, expected: dict[str, Any]
) -> None:
    (tmp_path / "runs").mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(tmp_path / "runs")]
    if os.geteuid() != 0 or subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        command, folder = start(tmp_path)
        command.until(lambda: steps_done(folder) >= 12)
        ballast = tmp_path / "runs" / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(tmp_path / "runs").free - 8192))
        assert command.wait() == 1
        assert f"error: cannot write to {folder}: No space left on device; fix this" in command.text
        assert "Traceback" not in command.text
        newest, passed_over = newest_checkpoint(folder)
        assert newest is not None and newest.name >= "epoch=0001" and passed_over == []
        print(f"\nfull disk: at step {steps_done(folder)}, {newest.name} intact")
        ballast.unlink()
        finish(tmp_path)
        assert left(folder) == expected
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path / "runs")], check=True)


@pytest.mark.slow
def test_the_workers_machine_is_lost_and_another_comes(tmp_path: Path, expected: dict[str, Any]) -> None:
    """Ray nodes on this machine; when the worker's node is killed, the run resumes by itself on a new one."""
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    memory = 200 * 2**20
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": memory})
    try:
        node = cluster.add_node(num_cpus=2, object_store_memory=memory)
        environment = dict(os.environ) | {"RAY_ADDRESS": cluster.address}
        command, folder = start(tmp_path, "train.cpus_per_worker=1.5", "train.threads=1", env=environment)
        command.until(lambda: steps_done(folder) >= 20)
        at, killed_at = time.time(), steps_done(folder)
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=2, object_store_memory=memory)
        assert command.wait(300) == 0, command.text[-3000:]
        print(f"\nmachine: at step {killed_at}, {recovered(folder, at)}")
        assert "workers restarted from step" in command.text
        assert left(folder) == expected
    finally:
        cluster.shutdown()
        del os.environ["RAY_AUTH_MODE"]
