"""Faults of clusters: preempted nodes, unreachable stores, runs in a bucket; and that nothing stays alive.

Ray nodes are processes on this machine (``ray.cluster_utils.Cluster``); the bucket is on a local S3 server.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from paramcrop.data.synthetic import make_dataset
from paramcrop.storage.checkpoint import newest_checkpoint
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.results import read_result
from tests.bucket import NAME, s3_server
from tests.ray_jobs.commands import ROOT, Command, left, steps_done

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MEMORY = 200 * 2**20  # bytes of a node's object store
SETTINGS = (
    *("train.max_steps=48", "run.checkpoint_epochs=1", "run.log_every=1", "optim.name=lars", "augment.jitter=0.8"),
    *("train.threads=1", "train.max_restarts=0"),
)
ALIVE = """
import json, ray
from ray._private.state import actors
ray.init(address="auto", log_to_driver=False)
living = [a["ActorClassName"] for a in actors().values() if a["State"] != "DEAD"]
groups = [g["placement_group_id"] for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]
print(json.dumps({"actors": [name for name in living if not name.startswith("_")], "groups": groups}))
"""  # from Ray's control store, because the dashboard's port may belong to another cluster


@contextmanager
def cluster_of(*cpus: int) -> Iterator[Cluster]:
    """A head with one CPU, and nodes with these numbers of CPUs."""
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": MEMORY})
    try:
        for each in cpus:
            cluster.add_node(num_cpus=each, object_store_memory=MEMORY)
        yield cluster
    finally:
        cluster.shutdown()
        for name in ("RAY_AUTH_MODE", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"):
            del os.environ[name]


def environment(cluster: Cluster) -> dict[str, str]:
    return dict(os.environ) | {"RAY_ADDRESS": cluster.address}


def alive(cluster: Cluster) -> dict[str, list[str]]:
    """Actors and placement groups that are still alive some time after a command's end."""
    end = time.monotonic() + 30
    while True:
        done = subprocess.run([sys.executable, "-c", ALIVE], env=environment(cluster), capture_output=True, text=True)
        found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
        if not any(found.values()) or time.monotonic() > end:
            return found


def start(home: Path, *more: str, env: dict[str, str] | None = None) -> tuple[Command, Path]:
    """Start the command and wait for its run's folder."""
    command = Command(home, "pretrain.py", "run.storage=runs", *SETTINGS, *more, env=env)
    command.until(lambda: any((home / "runs").glob("demo-*[0-9a-f]")))
    return command, next((home / "runs").glob("demo-*[0-9a-f]"))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed run leaves."""
    command, folder = start(tmp_path_factory.mktemp("undisturbed"))
    assert command.wait() == 0, command.text[-3000:]
    return left(folder)


def spot_watch() -> Any:
    spec = importlib.util.spec_from_file_location("spot_watch", ROOT / "cluster" / "spot_watch.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_drained_node_costs_no_step_and_counts_as_no_failure(tmp_path: Path, expected: dict[str, Any]) -> None:
    """train.max_restarts is 0. After the notice, the run saves a checkpoint within the epoch; then the node goes."""
    with cluster_of(2) as cluster:
        node = next(iter(cluster.worker_nodes))
        command, folder = start(tmp_path, "train.cpus_per_worker=1.5", env=environment(cluster))
        command.until(lambda: steps_done(folder) >= 19)
        at = time.time()
        cluster.add_node(num_cpus=2, object_store_memory=MEMORY)
        assert spot_watch().drain(cluster.address, node.node_id, at + 30)
        command.until(lambda: any((folder / "checkpoints").glob("epoch=*-step=*")) or steps_done(folder) == 48)
        noticed = time.time() - at
        (within,) = (folder / "checkpoints").glob("epoch=*-step=*")
        step = int(within.name.rpartition("=")[2])
        cluster.remove_node(node, allow_graceful=False)
        assert command.wait(300) == 0, command.text[-3000:]
        starts = [line for line in read_lines(folder / "history.jsonl") if line["event"] == "workers"]
        back = starts[-1]["time"] - at
        print(f"\ndrained: checkpoint at step {step} {noticed:.1f} s after the notice, workers back after {back:.1f} s")
        assert len(starts) == 2 and starts[-1]["step"] >= step
        assert left(folder) == expected
        assert alive(cluster) == {"actors": [], "groups": []}


def test_two_nodes_train_and_evaluate_with_shards_runs_and_results_in_a_bucket(tmp_path: Path) -> None:
    """One worker per node, sharing only the bucket, gives the same run as two workers on one machine."""
    with s3_server():
        data = f"{NAME}/{tmp_path.name}/shards"
        make_dataset(data, count=256, frames=32, height=48, width=64)
        settings = (f"data.shards={data}", "train.workers=2", "run.storage=" + f"{NAME}/{tmp_path.name}/runs")
        with cluster_of(2, 2) as cluster:
            line = (*SETTINGS, *settings, "train.cpus_per_worker=1.2")
            command = Command(tmp_path / "remote", "pretrain.py", *line, env=environment(cluster))
            assert command.wait(400) == 0, command.text[-3000:]
            uri = next(w for w in command.text.split() if w.startswith(f"{NAME}/{tmp_path.name}/runs/demo-"))
            tasks = ("--task", "retrieval", "--as-pretrained")
            evaluation = Command(tmp_path / "remote", "evaluate.py", "--run", uri, *tasks, env=environment(cluster))
            assert evaluation.wait(300) == 0, evaluation.text[-3000:]
            assert alive(cluster) == {"actors": [], "groups": []}
        again = Command(tmp_path / "remote", "pretrain.py", *line)
        assert again.wait(60) == 0 and f"already finished: {uri}" in again.text
        place = Mirror.of(uri, "test")
        place.fetch()
        place.fetch("checkpoints/epoch=0006/")
        (result,) = (place.folder / "evaluations").glob("*.json")
        assert read_result(result) is not None and read_lines(place.folder / "results.jsonl")
        local, folder = start(tmp_path / "local", f"data.shards={data}", "train.workers=2")
        assert local.wait(300) == 0, local.text[-3000:]
        expected, found = left(folder), left(place.folder)
        assert found["samples"] == expected["samples"] and found["metrics"] == expected["metrics"]
        assert found["crops"] == expected["crops"] and found["weights"] == expected["weights"]


def test_a_run_in_a_bucket_survives_a_killed_driver_and_an_unreachable_store(
    tmp_path: Path, expected: dict[str, Any]
) -> None:
    with s3_server() as keys:
        storage = f"{NAME}/{tmp_path.name}/runs"
        line = ("pretrain.py", *SETTINGS, f"run.storage={storage}")
        command = Command(tmp_path, *line)
        command.until(lambda: f"{storage}/demo-" in command.text)
        uri = next(w for w in command.text.split() if w.startswith(f"{storage}/demo-"))
        place = Mirror.of(uri, "test")

        def newest() -> str:
            place.fetch("checkpoints/", light=True)
            return max((p.parent.name for p in place.folder.glob("checkpoints/*/meta.json")), default="")

        command.until(lambda: newest() >= "epoch=0001")
        port = keys["AWS_ENDPOINT_URL"].rpartition(":")[2]
        server = int(subprocess.run(["pgrep", "-f", f"moto.server.*-p {port}"], capture_output=True, text=True).stdout)
        os.kill(server, signal.SIGSTOP)  # it stops answering
        time.sleep(25)
        os.kill(server, signal.SIGCONT)
        command.until(lambda: newest() >= "epoch=0003", 240)
        command.kill_all()
        at = time.time()
        again = Command(tmp_path, *line)
        assert again.wait(300) == 0, again.text[-3000:]
        assert "resuming from epoch=" in again.text and "Traceback" not in command.text + again.text
        place.fetch()
        place.fetch("checkpoints/epoch=0006/")
        starts = [line for line in read_lines(place.folder / "history.jsonl") if line["event"] == "workers"]
        back, step = starts[-1]["time"] - at, starts[-1]["step"]
        print(f"\nbucket: driver killed, workers back {back:.1f} s later, from step {step}")
        assert starts[-1]["step"] >= 24
        assert left(place.folder) == expected
        assert newest_checkpoint(place.folder)[0] is not None
