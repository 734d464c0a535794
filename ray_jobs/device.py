"""The device that a run trains on, which its precision, and so its id, follow from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paramcrop.settings.config import Config

if TYPE_CHECKING:
    from ray_jobs.engine.plan import Node


def find_device(config: Config, cluster: str | None = None) -> str:
    """The device, "cpu" or "cuda"; connects to a running cluster only to count its GPUs.

    Args:
        cluster: a launch file or list of nodes to plan for; None: where this command trains.

    Raises:
        ConfigError, ResourceError: the launch file is invalid, or the running cluster does not answer.
    """
    t = config.train
    if t.device != "auto":
        return t.device
    from ray_jobs.engine.plan import device_of

    return device_of(_nodes(config, cluster), t.workers)


def _nodes(config: Config, cluster: str | None) -> list[Node]:
    if cluster is not None:
        from ray_jobs.launch_files.check import check_cluster

        return list(check_cluster(cluster, config).nodes)
    from ray_jobs.engine.connect import cluster_nodes, connect
    from ray_jobs.engine.plan import Node
    from ray_jobs.engine.ray_private import joins_cluster

    if joins_cluster():
        connect(config.run.ray_logs, trains=True)
        return cluster_nodes()
    import torch

    return [Node(0, torch.cuda.device_count())]
