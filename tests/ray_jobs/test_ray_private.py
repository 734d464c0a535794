"""Each private name of Ray, absent in turn: the absence is reported once, and the work is done nevertheless."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import yaml

from paramcrop.data.clips import ClipSpec
from paramcrop.data.manifest import Manifest
from paramcrop.data.samples import TrainingSet, epoch_batches
from paramcrop.errors import DataError
from paramcrop.settings.presets import shipped
from ray_jobs.engine import names, nodes, ray_private
from ray_jobs.engine.ingest import Decoding, execution_options, training_samples
from ray_jobs.engine.names import Name
from ray_jobs.engine.train import own_error

NAMES = [value for value in vars(ray_private).values() if isinstance(value, Name)]
SPEC = ClipSpec(frames=8, size=32)


@pytest.fixture(autouse=True)
def nothing_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_reported", set())


def drop(monkeypatch: pytest.MonkeyPatch, name: Name) -> None:
    """Simulate a Ray whose module lacks the name; an attribute is dropped with its class."""
    monkeypatch.delattr(import_module(name.module), name.name)


def notes(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]


def full(name: Name) -> str:
    return ".".join(part for part in (name.module, name.name, name.attribute) if part)


@pytest.mark.parametrize("name", NAMES, ids=full)
def test_this_ray_has_the_name_and_its_absence_is_reported_once(
    name: Name, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert name.is_there()
    names.check((name,))
    assert notes(capsys) == []
    if name.attribute:
        absent = Name(name.module, name.name, name.attribute + "_renamed", name.cost)
        assert not absent.is_there()
    drop(monkeypatch, name)
    names.check((name, name))
    assert notes(capsys) == [f"note: Ray {ray.__version__} has no {full(name)}: {name.cost}"]
    monkeypatch.setitem(sys.modules, name.module, None)
    assert not name.is_there()


def test_no_other_file_uses_a_private_name_of_ray() -> None:
    root = Path(__file__).resolve().parents[2]
    private = re.compile(
        r"ray[\w.]*\.(_private|_internal|_raylet)\b|import_module\(.ray|"
        + "|".join(rf"\.{name.attribute}\b" for name in NAMES if name.attribute)
    )
    for path in [*(root / "ray_jobs").rglob("*.py"), *(root / "cluster").glob("*.py")]:
        if path.name != "ray_private.py":
            assert not private.search(path.read_text()), path


def test_without_the_filter_of_log_lines_they_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: Any = ray_private.LINES.find()
    monkeypatch.setattr(lines, "skip_re", None)
    ray_private.hide_lines(re.compile("idle"))
    assert lines.skip_re == re.compile("idle")
    monkeypatch.setattr(import_module(ray_private.LINES.module), ray_private.LINES.name, SimpleNamespace())
    ray_private.hide_lines(re.compile("idle"))
    ray_private.hide_lines(re.compile("idle"))
    assert len(notes(capsys)) == 1


def test_without_the_clusters_address_every_command_connects(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert not ray_private.joins_cluster()
    drop(monkeypatch, ray_private.ADDRESS)
    assert ray_private.joins_cluster() and ray_private.joins_cluster() and len(notes(capsys)) == 1


def test_without_a_search_path_workers_get_a_runtime_env(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ray_private.worker_path(["/a"])["job_config"]._py_driver_sys_path == ["/a"]
    monkeypatch.setenv("PYTHONPATH", "/c")
    monkeypatch.setenv("RAY_OVERRIDE_JOB_RUNTIME_ENV", "0")
    monkeypatch.setattr(import_module(ray_private.PATH.module), ray_private.PATH.name, dict[str, Any].fromkeys)
    expected = {"runtime_env": {"env_vars": {"PYTHONPATH": "/b:/a:/c"}}}
    assert [ray_private.worker_path(["/a", "/b"]) for _ in range(2)] == [expected] * 2
    assert ray_private.worker_path([]) == {} and len(notes(capsys)) == 1


def test_without_the_topology_the_loop_is_neither_slowed_nor_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = list[float]()
    monkeypatch.setattr(time, "sleep", pauses.append)
    pace: Any = ray_private.Pace()
    for executor in (SimpleNamespace(), SimpleNamespace(_topology=[SimpleNamespace(metrics=None)])):
        pace.before_execution_starts(executor)
        for _ in range(3):
            pace.on_execution_step(executor)
        ray_private.Forget().on_execution_step(executor)
    assert set(pauses) == {0.0}


def test_without_a_plan_a_repartition_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    changed = SimpleNamespace(ray_remote_args={}, compute=SimpleNamespace())  # another structure than expected
    for dataset in (SimpleNamespace(), SimpleNamespace(_logical_plan=SimpleNamespace(dag=changed))):
        ray_private.lighten(dataset, 0.02, 1)
    assert changed.ray_remote_args == {} and vars(changed.compute) == {}
    assert len(notes(capsys)) == 1


class WorkersFailed(RuntimeError):
    """As Ray Train raises it."""

    worker_failures: dict[int, Exception]


def test_without_the_cause_of_a_workers_error_rays_own_is_raised() -> None:
    wrapped: Any = getattr(import_module(ray_private.CAUSE.module), ray_private.CAUSE.name)(DataError("torn"), "")
    failure = WorkersFailed("a worker failed")
    failure.worker_failures = {0: wrapped}
    assert str(own_error(failure)) == "torn"
    del wrapped._base_exc
    assert own_error(failure) is None


@pytest.mark.parametrize("name", [ray_private.PREPARE, ray_private.VALIDATE], ids=full)
def test_without_rays_validation_launch_files_pass(
    name: Name, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load((shipped("cluster") / "aws.yaml").read_text()) | {"max_workers": "many"}
    assert ray_private.ray_problems(values)
    drop(monkeypatch, name)
    assert [ray_private.ray_problems(values) for _ in range(2)] == [[], []]
    assert len(notes(capsys)) == 1


def test_without_rays_client_a_command_drains_the_node(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = list[list[str]]()

    def run(command: list[str], **given: Any) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=len(commands) - 1, stderr="no such node\n", stdout="")

    drop(monkeypatch, ray_private.CLIENT)
    monkeypatch.setattr(subprocess, "run", run)
    assert [ray_private.drain_node("1.2.3.4:5", "abc", time.time() + 30, "why") for _ in range(2)] == [
        "",
        "no such node",
    ]
    assert "drain-node --address 1.2.3.4:5 --node-id abc" in " ".join(commands[0]) and commands[0][-1] == "30"
    assert len(notes(capsys)) == 1


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray without a search path for its workers, which get a module's folder by a runtime_env."""
    folder = tmp_path_factory.mktemp("path")
    (folder / "found_by_workers.py").write_text("VALUE = 7\n")
    before = dict(os.environ)
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module(ray_private.PATH.module), ray_private.PATH.name, dict[str, Any].fromkeys)
        given = ray_private.worker_path([str(folder)])
    given |= {"object_store_memory": 300 * 2**20, "include_dashboard": False, "log_to_driver": False}
    ray.init(address="local", num_cpus=2, **given)
    yield
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_workers_find_code_through_the_runtime_env() -> None:
    @ray.remote
    def value() -> int:
        return int(import_module("found_by_workers").VALUE)

    assert ray.get(value.remote(), timeout=120) == 7


LOOP = ["CALLBACK", "WAIT_TIME", "FETCHER", "FETCHES", "STEPS", "STATS", "PLAN"]


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_what_a_dead_process_had_reserved_is_free_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Holder:
        def reserve(self) -> None:
            self.group = ray.util.placement_group([{"CPU": 1}])
            ray.get(self.group.ready())

    def wait_until(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.1)

    def reserved() -> int:
        return sum(row["state"] == "CREATED" for row in ray.util.placement_group_table().values())

    before, mine = reserved(), ray.util.placement_group([{"memory": 1}])
    ray.get(mine.ready())
    holders: list[Any] = [ray.remote(num_cpus=0)(Holder).remote() for _ in range(2)]
    ray.get([holder.reserve.remote() for holder in holders])
    assert ray_private.remove_orphans() == 0
    monkeypatch.setattr(nodes, "PAUSE", 0.1)
    with nodes.orphans_removed():
        ray.kill(holders[1])
        wait_until(lambda: reserved() == before + 2)
    drop(monkeypatch, ray_private.GROUPS)
    assert ray_private.remove_orphans() == 0 and len(notes(capsys)) == 1
    ray.kill(holders[0])
    ray.util.remove_placement_group(mine)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("absent", [*([one] for one in LOOP), LOOP], ids=lambda names: "+".join(names))
def test_the_order_of_data_is_the_same_without_a_name_of_its_loop(
    absent: list[str], shards: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    for constant in absent:
        name = getattr(ray_private, constant)
        attribute = name.attribute and f"{name.attribute}_renamed"
        monkeypatch.setattr(ray_private, constant, Name(f"{name.module}.renamed", name.name, attribute, name.cost))
    dataset = training_samples(TrainingSet(*shards, 5, 12, 2), SPEC, range(1), Decoding(3, 60))
    dataset.context.execution_options = execution_options(2)
    got = [row for block in dataset.iter_batches(batch_size=3, batch_format="numpy") for row in block["id"]]
    assert got == [row for batch in epoch_batches(*shards, SPEC, 5, 0, 12, 2) for row in batch["id"]]
