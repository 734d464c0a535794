"""Waiting for a cluster that grows when it is asked to: by `ray up`, or by KubeRay's autoscaler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ray.autoscaler.sdk import request_resources

from paramcrop.errors import ResourceError
from paramcrop.settings.config import Config
from ray_jobs.engine.connect import cluster_nodes
from ray_jobs.engine.plan import Node

P = TypeVar("P")
POLL = 5.0  # seconds


@contextmanager
def planned(config: Config, plan: Callable[[list[Node]], P], say: Callable[[str], None]) -> Iterator[P]:
    """``plan`` of the cluster's nodes, once all that a run needs is there; what was asked for is given back at the end.

    Raises:
        ResourceError: the run does not fit, or not after ``train.wait_minutes``.
    """
    t = config.train
    if not t.wait_minutes:
        yield plan(cluster_nodes())
        return
    workers = {"CPU": t.cpus_per_worker or 1, **({"GPU": 1} if t.device == "cuda" else {})}
    request_resources(bundles=[workers] * t.workers + [{"CPU": 1}] * round(t.data_cpus or 1))
    try:
        yield _wait(t.wait_minutes, plan, say)
    finally:
        request_resources(bundles=[])


def _wait(minutes: float, plan: Callable[[list[Node]], P], say: Callable[[str], None]) -> P:
    end, told = time.monotonic() + 60 * minutes, ""
    while True:
        try:
            return plan(cluster_nodes())
        except ResourceError as error:
            if time.monotonic() > end:
                raise ResourceError(f"{error} (waited {minutes:g} minutes for more)") from None
            if str(error) != told:
                told = str(error)
                say(f"waiting for the cluster to grow: {told}")
        time.sleep(POLL)
