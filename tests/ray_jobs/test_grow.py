"""Waiting for a cluster that grows on request, without a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from paramcrop.errors import ResourceError
from paramcrop.settings.presets import load_config
from ray_jobs.engine import connect
from ray_jobs.engine.plans.plan import Node
from ray_jobs.pretrain.command import plan_of


def requested_and_planned(monkeypatch: pytest.MonkeyPatch, nodes: list[list[Node]], *overrides: str) -> tuple[Any, ...]:
    """The requests to the cluster, the plan, the messages, and all requests; ``nodes`` gives the nodes at each look."""
    requests, messages, looks = list[Any](), list[str](), iter(nodes)
    monkeypatch.setattr(connect, "request_resources", lambda bundles: requests.append(bundles))
    monkeypatch.setattr(connect, "cluster_nodes", lambda: next(looks, nodes[-1]))
    monkeypatch.setattr(connect, "POLL", 0.01)
    config = load_config("k400_simclr_s3dg", None, ["train.workers=2", "train.device=cuda", *overrides])
    with connect.planned(config, lambda there: plan_of(config, there), messages.append) as plan:
        before = list(requests)
    return before, plan, messages, requests


def test_it_requests_waits_and_withdraws(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [[Node(0)], [Node(0), Node(8, 2)], [Node(0), Node(8, 2), Node(16)]]
    overrides = ("train.wait_minutes=1", "train.data_cpus=20")
    requests, plan, messages, after = requested_and_planned(monkeypatch, nodes, *overrides)
    assert requests == [[{"CPU": 1, "GPU": 1}] * 2 + [{"CPU": 1}] * 20] and after[-1] == []
    assert (plan.workers, plan.worker_gpus, plan.data_cpus) == (2, 1, 22)
    assert len(messages) == 2 and "20 CPUs must be left for decoding" in messages[1]


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match=r"but there is none; .* \(waited 0.001 minutes for more\)"):
        requested_and_planned(monkeypatch, [[Node(0)]], "train.wait_minutes=0.001")


def test_without_wait_minutes_nothing_is_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    requests, plan, messages, after = requested_and_planned(monkeypatch, [[Node(8, 2)]])
    assert requests == messages == after == [] and plan.workers == 2
    with pytest.raises(ResourceError):
        requested_and_planned(monkeypatch, [[Node(8)]])
