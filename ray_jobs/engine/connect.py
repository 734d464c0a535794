"""Join a Ray cluster, or start one for this process."""

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
from paramcrop.cli import interrupt_on_sigterm
from paramcrop.errors import ResourceError
from paramcrop.settings.config import Config
from ray_jobs.engine.names import check
from ray_jobs.engine.plans.plan import Node
from ray_jobs.engine.ray_private import DATA, hide_lines, joins_cluster, worker_path

OWN = {  # settings of a Ray that is started here; the environment overrides them
    # Keep idle workers for 30 s instead of 1 s, so that a sweep's next trial reuses the decoders of the last one: its
    # first batch comes after 3.5 s instead of 8.5 s.
    "RAY_idle_worker_killing_time_threshold_ms": "30000",
}
EXPECTED = re.compile("PYTHON worker processes have been started")  # a warning of small nodes about those workers
QUIET = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # we draw our own
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # the default, 2, costs seconds at the end of a short run
}


_started: list[bool] = []  # whether ``connect`` started a Ray


def connect(ray_logs: bool, trains: bool = False) -> None:
    """Connect this process to Ray, unless it is connected already.

    Join the cluster of RAY_ADDRESS, of the submitted job, or of an earlier `ray start`; without one, start Ray here.

    Args:
        ray_logs: show Ray's own log.
        trains: whether the command pretrains; then also check the private names of Ray that training uses.

    Raises:
        ResourceError: there is such a cluster, but it does not answer.
    """
    if ray.is_initialized():
        return
    for name, value in (QUIET | OWN).items():
        os.environ.setdefault(name, value)
    if not ray_logs:
        hide_lines(EXPECTED)
    level = logging.INFO if ray_logs else logging.ERROR
    _started.append(not joins_cluster())
    try:
        ray.init(log_to_driver=ray_logs, logging_level=level, **worker_path(own_path()))
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ResourceError(
            f"the Ray cluster of RAY_ADDRESS or an earlier `ray start` does not answer: {reason}; "
            "start it, clear it with `ray stop`, or set RAY_ADDRESS=local"
        ) from None
    interrupt_on_sigterm()  # Ray's own handler ends the process at once
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(level)
    if trains:
        check(DATA)


def connection() -> str:
    """Which Ray this process uses: the one that it has started, or the cluster that it has joined."""
    nodes = cluster_nodes()
    size = f"{sum(n.cpus for n in nodes):g} CPUs and {sum(n.gpus for n in nodes):g} GPUs"
    if any(_started):
        return f"Ray: started for this command, on this machine, with {size}"
    address = ray.get_runtime_context().gcs_address
    return f"Ray: joined the cluster at {address}, {len(nodes)} node(s) with {size}"


def own_path() -> list[str]:
    """Folders from which workers import, besides installed packages; the last one is searched first.

    They are the clone that this code runs from; PYTHONPATH, which workers of an already running Ray do not inherit; and
    the current folder, which may hold the user's own backbone or policy (trials and training workers run elsewhere).
    """
    root = Path(paramcrop.__file__).resolve().parents[1]
    clone = [str(root)] if (root / "pyproject.toml").exists() else []
    named = [str(Path(p).absolute()) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return [*clone, *reversed(named), str(Path.cwd())]


def cluster_nodes() -> list[Node]:
    """The live nodes of the connected cluster."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in alive]


P = TypeVar("P")
POLL = 5.0  # seconds between two attempts to plan


@contextmanager
def planned(config: Config, plan: Callable[[list[Node]], P], say: Callable[[str], None]) -> Iterator[P]:
    """Yield ``plan(nodes)`` once the cluster has what the run needs; withdraw the request for resources at the end.

    Args:
        plan: raises ResourceError while the nodes do not suffice.
        say: receives the reason for waiting whenever it changes.

    Raises:
        ResourceError: the run does not fit, even after ``train.wait_minutes``.
    """
    t = config.train
    if not t.wait_minutes:
        yield plan(cluster_nodes())
        return
    workers = {"CPU": t.cpus_per_worker or 1, **({"GPU": 1} if t.device == "cuda" else {})}
    request_resources(bundles=[workers] * config.worker_counts[-1] + [{"CPU": 1}] * round(t.data_cpus or 1))
    try:
        yield _wait(t.wait_minutes, plan, say)
    finally:
        request_resources(bundles=[])


def _wait(minutes: float, plan: Callable[[list[Node]], P], say: Callable[[str], None]) -> P:
    end, reason = time.monotonic() + 60 * minutes, ""
    while True:
        try:
            return plan(cluster_nodes())
        except ResourceError as error:
            if time.monotonic() > end:
                raise ResourceError(f"{error} (waited {minutes:g} minutes for more)") from None
            if str(error) != reason:
                reason = str(error)
                say(f"waiting for the cluster to grow: {reason}")
        time.sleep(POLL)
