"""Joining a Ray cluster, or starting one for this process."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import ray
from ray.autoscaler.sdk import request_resources

import paramcrop
from paramcrop.errors import ResourceError
from paramcrop.settings.config import Config
from ray_jobs.engine.plan import Node
from ray_jobs.engine.ray_private import DATA, check, hide_lines, worker_path

OWN = {  # of a Ray that is started here, unless the environment says otherwise
    # A sweep's next trial finds the decoders of the last: its first batch comes in 3.5 s, not 8.5 s. Default: 1 s, for
    # all but as many as there are CPUs.
    "RAY_idle_worker_killing_time_threshold_ms": "30000",
}
EXPECTED = re.compile("PYTHON worker processes have been started")  # what a small node says to that
QUIET = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # we draw our own
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # default 2: seconds lost at the end of a short run
}


def connect(ray_logs: bool, trains: bool = False) -> None:
    """Join the cluster that RAY_ADDRESS names, a job belongs to, or `ray start` made here; else start one; once.

    Args:
        trains: whether a run is pretrained, for the check of what Ray has.

    Raises:
        ResourceError: such a cluster is named or recorded, but cannot be joined.
    """
    if ray.is_initialized():
        return
    for name, value in (QUIET | OWN).items():
        os.environ.setdefault(name, value)
    if not ray_logs:
        hide_lines(EXPECTED)
    level = logging.INFO if ray_logs else logging.ERROR
    try:
        ray.init(log_to_driver=ray_logs, logging_level=level, **worker_path(own_path()))
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ResourceError(
            f"the Ray cluster that RAY_ADDRESS or an earlier `ray start` names must answer: {reason}; "
            "start it, `ray stop` what is left of it, or set RAY_ADDRESS=local"
        ) from None
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(level)
    if trains:
        check(DATA)


def own_path() -> list[str]:
    """Where workers find what this process imports, besides installed packages: last in the list is searched first.

    The clone that this code runs from; PYTHONPATH, of which workers of a Ray that runs already know nothing; and the
    current folder, where the user's own backbone or policy lies (trials and workers of Ray Train run in other folders).
    """
    root = Path(paramcrop.__file__).resolve().parents[1]
    clone = [str(root)] if (root / "pyproject.toml").exists() else []
    named = [str(Path(p).absolute()) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return [*clone, *reversed(named), str(Path.cwd())]


def cluster_nodes() -> list[Node]:
    """The nodes of the connected cluster that are alive."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in alive]


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
