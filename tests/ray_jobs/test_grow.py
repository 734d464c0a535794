"""A cluster that grows when it is asked to, without one."""

from __future__ import annotations

from typing import Any

import pytest

from paramcrop.errors import ResourceError
from paramcrop.settings.presets import load_config
from ray_jobs.engine import connect
from ray_jobs.engine.plan import Node
from ray_jobs.pretrain.command import plan_of


def asked_and_planned(monkeypatch: pytest.MonkeyPatch, nodes: list[list[Node]], *overrides: str) -> tuple[Any, ...]:
    """What was asked of the cluster, the plan, and what was said, while the nodes come one look after the other."""
    asked, said, looks = list[Any](), list[str](), iter(nodes)
    monkeypatch.setattr(connect, "request_resources", lambda bundles: asked.append(bundles))
    monkeypatch.setattr(connect, "cluster_nodes", lambda: next(looks, nodes[-1]))
    monkeypatch.setattr(connect, "POLL", 0.01)
    config = load_config("k400_simclr_s3dg", None, ["train.workers=2", "train.device=cuda", *overrides])
    with connect.planned(config, lambda there: plan_of(config, there), said.append) as plan:
        found = list(asked)
    return found, plan, said, asked


def test_it_asks_waits_and_gives_back(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [[Node(0)], [Node(0), Node(8, 2)], [Node(0), Node(8, 2), Node(16)]]
    overrides = ("train.wait_minutes=1", "train.data_cpus=20")
    asked, plan, said, after = asked_and_planned(monkeypatch, nodes, *overrides)
    assert asked == [[{"CPU": 1, "GPU": 1}] * 2 + [{"CPU": 1}] * 20] and after[-1] == []
    assert (plan.workers, plan.worker_gpus, plan.data_cpus) == (2, 1, 22)
    assert len(said) == 2 and "20 CPUs must be left for decoding" in said[1]


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match=r"only 0 do: .* \(waited 0.001 minutes for more\)"):
        asked_and_planned(monkeypatch, [[Node(0)]], "train.wait_minutes=0.001")


def test_where_nothing_grows_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, plan, said, after = asked_and_planned(monkeypatch, [[Node(8, 2)]])
    assert asked == said == after == [] and plan.workers == 2
    with pytest.raises(ResourceError):
        asked_and_planned(monkeypatch, [[Node(8)]])
