"""Which commands run at once on one Ray: the rule and the protocol without Ray, and two pretrainings on a real one."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paramcrop.errors import ResourceError
from ray_jobs.engine import admission
from ray_jobs.engine.admission import (
    Claim,
    Need,
    admitted,
    need_of_evaluations,
    need_of_pretraining,
    need_of_sweep,
    shortage,
    turn,
    within,
)
from ray_jobs.engine.plans.plan import Node, plan_evaluations, plan_pretraining
from ray_jobs.engine.plans.sweep import plan_sweep
from tests.memory import TINY
from tests.ray_jobs.commands import Command
from tests.ray_jobs.conftest import Head

RUNNING = Claim("pretrain demo-1 (process 7 on here)", 2.0)


def test_one_of_two_commands_fits_two_cpus() -> None:
    two = {"CPU": 2.0}
    for need in (
        need_of_pretraining(plan_pretraining([Node(2)], 1), None),
        need_of_evaluations(plan_evaluations([Node(2)])),
        need_of_sweep(plan_sweep([Node(2)], 1)),
    ):
        assert 1.8 < need.cpus <= 2 and shortage(need, [], two, two) == ""
        why = shortage(need, [RUNNING], two, {"CPU": 0.2})
        assert why.startswith("0 of 2 CPUs are free, and this command needs 1.9") and RUNNING.who in why


def test_what_other_programs_use_is_not_free() -> None:
    why = shortage(Need(1.9), [], {"CPU": 2.0}, {"CPU": 0.2})
    assert why == "0.2 of 2 CPUs are free, and this command needs 1.9; other programs on this Ray use the rest"


def test_commands_that_say_how_many_cpus_they_decode_with_share_a_cluster() -> None:
    nodes, total = [Node(64, 8)], {"CPU": 64.0, "GPU": 8.0}
    plan = plan_pretraining(nodes, 4)
    first = need_of_pretraining(plan, 20)
    assert first == Need(24, 4, takes_rest=False)
    claims = [Claim("first", 24, 4)]
    assert shortage(need_of_pretraining(plan, None), claims, total, total) == ""
    assert "4 of 8 GPUs are free" in shortage(Need(9, 5), claims, total, total)
    assert within(plan, 64) == plan
    second = within(plan, 40)
    assert second.data_cpus == 36 and "of which this command decodes with 36" in second.arithmetic
    assert (within(plan, 5).data_cpus, within(plan, 5).decoders, plan.decoders) == (1, 1, 2)


def test_who_came_first_starts_first() -> None:
    waiting = [Claim("a", since=1.0), Claim("b", since=2.0), RUNNING]
    assert turn(waiting, 1.0) == "" and turn(waiting, 2.0) == "1 command(s) came before this one: a"
    assert turn(waiting, 3.0).startswith("2 command(s)")
    assert shortage(Need(1.9), waiting[:2], {"CPU": 2.0}, {"CPU": 2.0}) == ""  # who waits holds nothing


class Cluster:
    """The parts of Ray that admission uses, for threads that stand for commands."""

    def __init__(self, **total: float) -> None:
        self.total, self.free, self.table, self.ids = total, dict(total), dict[str, Any](), itertools.count()

    def placement_group(self, bundles: list[dict[str, float]], name: str) -> Any:
        key = f"{next(self.ids):04x}"
        self.table[key] = {"name": name, "state": "CREATED"}
        return SimpleNamespace(id=SimpleNamespace(hex=lambda: key))

    def remove_placement_group(self, group: Any) -> None:
        self.table[group.id.hex()] = self.table[group.id.hex()] | {"state": "REMOVED"}

    def placement_group_table(self) -> dict[str, Any]:
        time.sleep(0.001)
        return {"ff": {"name": "somebody else's", "state": "CREATED"}} | dict(self.table)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    made = Cluster(CPU=2.0)
    for name in ("placement_group", "remove_placement_group", "placement_group_table"):
        monkeypatch.setattr(admission, name, getattr(made, name))
    monkeypatch.setattr("ray.cluster_resources", lambda: made.total)
    monkeypatch.setattr("ray.available_resources", lambda: made.free)
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr(admission, "POLL", 0.01)
    yield made
    assert all(group["state"] == "REMOVED" for group in made.table.values())  # nothing is left claimed


def test_commands_that_start_together_run_one_after_the_other(cluster: Cluster) -> None:
    running, most, gate = list[int](), list[int](), threading.Barrier(6)

    def command(number: int) -> None:
        gate.wait()
        with admitted(Need(1.9), f"command {number}", lambda text: None) as cpus:
            running.append(number)
            most.append(len(running))
            assert cpus == 2.0
            time.sleep(0.01)
            running.remove(number)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(command, range(6)))
    assert most == [1] * 6


def test_it_says_once_what_it_waits_for(cluster: Cluster) -> None:
    said = list[str]()
    with ThreadPoolExecutor(1) as pool:
        with admitted(Need(1.9), "pretrain demo-1", lambda text: None):
            other = pool.submit(lambda: admitted(Need(1.9), "evaluate demo-1", said.append).__enter__())
            time.sleep(0.2)
            assert len(said) == 1 and said[0].startswith("waiting: 0 of 2 CPUs are free, and this command needs 1.9;")
            assert "pretrain demo-1 (process " in said[0] and not other.done()
        assert other.result(5) == 2.0


def test_what_the_cluster_does_not_have_is_refused(cluster: Cluster) -> None:
    with pytest.raises(ResourceError, match="needs 3 CPUs and 1 GPUs, but the cluster has 2 and 0"):
        admitted(Need(3, 1), "pretrain", print).__enter__()


@pytest.mark.ray
@pytest.mark.slow
def test_two_pretrainings_on_one_ray_run_one_after_the_other(head: Head, tmp_path: Path) -> None:
    env = head.env | {"RAY_ADDRESS": head.gcs}
    settings = (*TINY, "train.max_steps=8", "run.log_every=1", "run.storage=runs")
    first = Command(tmp_path / "first", "pretrain.py", *settings, env=env)
    first.until(lambda: "resources: " in first.text)
    second = Command(tmp_path / "second", "pretrain.py", *settings, "seed=1", env=env)
    second.until(lambda: "waiting: " in second.text)
    assert "of 2 CPUs are free, and this command needs 1.9; running: pretrain " in second.text
    assert "Ray: joined the cluster at " in second.text and "resources: " not in second.text
    assert first.wait() == 0 and second.wait() == 0, second.text[-3000:]
    assert second.text.count("waiting: ") <= 3  # the first command holds all; its last processes end; perhaps both
