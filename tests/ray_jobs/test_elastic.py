"""When the number of workers of a run changes: what is added to Ray Train's policy, and two machines that show it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError

from paramcrop.settings.presets import load_config
from ray_jobs.engine import elastic
from ray_jobs.engine.admission import Claim, need_of_elastic
from ray_jobs.engine.elastic import LOOK, PAUSE, RECENT, SAVING, Resizing, ask_to_save, asked_to_save
from ray_jobs.engine.plans.elastic import plan_elastic
from ray_jobs.engine.plans.plan import Node
from ray_jobs.pretrain.command import plan_of, plans_of

RUN = plan_elastic([Node(2), Node(2)], (1, 2))


class Cluster:
    """The clock, the nodes, and what other commands claim."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.slept, self.nodes = 0.0, 0.0, {"a": 2.0, "b": 2.0}
        self.claims, self.free = list[Claim](), dict[str, float]()
        monkeypatch.setattr(elastic, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep))
        monkeypatch.setattr(elastic, "cluster_nodes", lambda: [Node(cpus) for cpus in self.nodes.values()])
        monkeypatch.setattr(elastic, "read_claims", lambda: self.claims)
        monkeypatch.setattr("ray.available_resources", lambda: self.free)
        monkeypatch.setattr("ray.get", self.get)
        monkeypatch.setattr("ray.nodes", lambda: [{"NodeID": node, "Alive": True} for node in self.nodes])

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def get(self, answer: bool | None, timeout: float) -> bool:
        if answer is None:
            raise GetTimeoutError("no answer yet")
        return answer


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


class Base:
    """As Ray Train's policy: it looks every ``LOOK`` seconds, and decides for what the cluster has reserved."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.looked, self.reserved = (
            cluster,
            0.0,
            {"a": {"CPU": 0.9}, "b": {"CPU": 0.9}, "gone": {"CPU": 9}},
        )

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        raise AssertionError("its own count takes no notice of the batch")

    def make_decision_for_running_worker_group(self, state: Any, status: Any) -> Any:
        if self.cluster.now - self.looked < LOOK:
            return SimpleNamespace()
        self.looked = self.cluster.now
        return self.decided(state.num_workers)

    def make_decision_for_non_running_worker_group(self) -> Any:
        return self.decided(0)

    def decided(self, before: int) -> Any:
        n = self._count_possible_workers(self.reserved)
        return SimpleNamespace(num_workers=n) if n not in (before, 0) else SimpleNamespace()


class Policy(Resizing, Base):
    """One run of workers; ``asked`` counts the requests to rank 0 for a checkpoint."""

    def __init__(self, cluster: Cluster, run: Any = RUN) -> None:
        super().__init__(cluster)
        self.prepare(run, "pretrain me")
        self.requests, self.started = list[float](), 0.0
        self.stepped: bool | None = True

    def poll(self, at: float, workers: int, reported: bool = False) -> int | None:
        """The number that the policy changes to at this time; None: it does not."""
        self.cluster.now = at
        state = SimpleNamespace(num_workers=workers, start_time=self.started)
        state.workers = [SimpleNamespace(execute_async=self.ask)]
        status = SimpleNamespace(worker_statuses={0: SimpleNamespace(training_report="it" if reported else None)})
        decision = self.make_decision_for_running_worker_group(state, status)
        return getattr(decision, "num_workers", None)

    def ask(self, function: Any) -> bool | None:
        self.requests.append(self.cluster.now)
        return self.stepped


def test_more_workers_start_once_a_checkpoint_that_was_asked_for_is_there(cluster: Cluster) -> None:
    policy = Policy(cluster)
    assert [policy.poll(at, 1) for at in (5, LOOK, LOOK + 1, 2 * LOOK, 3 * LOOK)] == [None] * 5
    assert policy.requests == [LOOK]
    assert policy.poll(3 * LOOK + 1, 1, reported=True) is None
    assert policy.poll(4 * LOOK, 1) == 2


def test_a_checkpoint_of_just_now_suffices(cluster: Cluster) -> None:
    policy = Policy(cluster)
    policy.poll(LOOK - 1, 1, reported=True)
    assert policy.poll(LOOK, 1) == 2 and policy.requests == []


def test_a_machine_that_left_before_the_change_is_asked_for_anew(cluster: Cluster) -> None:
    policy = Policy(cluster)
    policy.poll(LOOK, 1)
    policy.poll(LOOK + 1, 1, reported=True)
    gone = cluster.nodes.pop("b")
    assert policy.poll(2 * LOOK, 1) is None
    cluster.nodes["b"] = gone
    assert policy.poll(2 * LOOK + RECENT, 1) is None and policy.requests == [LOOK, 2 * LOOK + RECENT]


def test_it_does_not_wait_for_a_checkpoint_for_ever(cluster: Cluster) -> None:
    policy = Policy(cluster)
    assert policy.poll(LOOK, 1) is None
    assert policy.poll(LOOK + SAVING + 1, 1) == 2


def test_workers_that_took_no_step_are_not_waited_for(cluster: Cluster) -> None:
    policy = Policy(cluster)
    del cluster.nodes["b"]  # both workers started on "a", where no CPU is left to decode
    policy.stepped = None  # not answered yet
    assert [policy.poll(at, 2) for at in (LOOK, 2 * LOOK)] == [None, None]
    policy.answer = False
    assert policy.poll(3 * LOOK, 2) == 1 and policy.requests == [LOOK]


def test_workers_that_replaced_those_asked_are_asked_themselves(cluster: Cluster) -> None:
    policy = Policy(cluster)
    policy.poll(LOOK, 1)
    policy.started = LOOK + 1
    assert policy.poll(2 * LOOK, 1) is None and policy.requests == [LOOK, 2 * LOOK]


def test_what_is_gone_or_claimed_is_not_counted(cluster: Cluster) -> None:
    policy = Policy(cluster)
    assert policy.make_decision_for_non_running_worker_group().num_workers == 2
    cluster.claims = [Claim("pretrain me", 4), Claim("pretrain other", 2)]
    assert policy.make_decision_for_non_running_worker_group().num_workers == 1
    cluster.claims, policy.reserved = [], {"a": {"CPU": 0.9}, "gone": {"CPU": 0.9}}
    assert policy.make_decision_for_non_running_worker_group().num_workers == 1
    assert cluster.slept == 0
    cluster.nodes.clear()
    assert not hasattr(policy.make_decision_for_non_running_worker_group(), "num_workers")
    assert cluster.slept == PAUSE  # Ray Train's controller asks again at once


def test_a_run_below_its_fewest_workers_says_once_that_it_waits(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = Policy(cluster)
    line = "waiting: the fewest of train.workers, 1, do not fit on what is there, 0 node(s) with 0 CPUs"
    for nodes, said in (({}, 1), ({}, 0), ({"a": 2.0}, 0), ({}, 1)):
        cluster.nodes = nodes
        policy.make_decision_for_non_running_worker_group()
        assert capsys.readouterr().out.count(line) == said


def test_a_gpu_that_another_program_uses_is_not_taken(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    run, nodes = plan_elastic([Node(8, 1), Node(8, 1)], (1, 2)), [Node(8, 1), Node(8, 1)]
    monkeypatch.setattr(elastic, "cluster_nodes", lambda: nodes)
    policy = Policy(cluster, run)
    policy.reserved = {name: {"CPU": 1.0, "GPU": 1.0} for name in "ab"}
    policy.poll(LOOK - 1, 1, reported=True)
    assert policy.poll(LOOK, 1) is None and policy.requests == []
    cluster.free = {"GPU": 1.0}
    assert policy.poll(2 * LOOK, 1) == 2


def test_a_worker_is_asked_by_a_new_request_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic, "_asked", [])
    monkeypatch.setattr(elastic, "_lines", [])
    assert ask_to_save() is False  # it has taken no step
    monkeypatch.setattr(elastic, "_asked", [])
    assert asked_to_save() == ""
    assert ask_to_save() is True
    assert asked_to_save() == asked_to_save() == "request 1"
    ask_to_save()
    assert asked_to_save() == "request 2"


def test_a_command_claims_its_least_and_begins_with_what_is_there() -> None:
    config = load_config("k400_simclr_s3dg", None, ["train.workers=2..8"])
    one, two = [Node(16, 4)], [Node(16, 4), Node(16, 4)]
    assert [plan_of(config, nodes).workers for nodes in (one, two)] == [4, 8]
    plan, run = plans_of(config, two)
    assert run is not None and plan.data_cpus == 24
    need = need_of_elastic(run)
    assert (need.cpus, need.gpus, need.most_gpus, need.takes_rest) == (3, 2, 8, True)
    fixed = load_config("k400_simclr_s3dg", None, ["train.workers=2"])
    assert plans_of(fixed, two)[1] is None
