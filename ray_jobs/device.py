"""The device that runs train on, or evaluators compute on: precision follows from it, and so do ids."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from paramcrop.errors import ConfigError
from paramcrop.settings.config import Config

if TYPE_CHECKING:
    from ray_jobs.engine.plans.plan import Node

DRIVERS = ("nvidia[0-9]*", "dxg")  # devices of NVIDIA's driver, and of Windows' for Linux


def find_device(config: Config, cluster: str | None = None) -> str:
    """The device, "cpu" or "cuda"; connects to a running cluster only to count its GPUs.

    Args:
        cluster: a launch file or list of nodes to plan for; None: where this command trains.

    Raises:
        ConfigError, ResourceError: the launch file is invalid, the running cluster does not answer, or the device
            cannot train in ``train.precision``.
    """
    from ray_jobs.engine.plans.plan import device_of

    t = config.train
    device = t.device if t.device != "auto" else device_of(_planned(config, cluster), config.worker_counts[0])
    if device == "cpu" and t.precision == "bfloat16":
        # Torch 2.14 with two threads: the gradient of a 3 x 3 x 3 convolution of 32 channels is infinite now and then.
        raise ConfigError(
            "train.precision=bfloat16 needs GPUs, but this run trains on CPUs, on which gradients of convolutions in "
            "bfloat16 are not reliable; leave it out"
        )
    return device


def evaluators_device(option: str) -> str:
    """The device, "cpu" or "cuda", of evaluators with this ``--device``; connects to a running cluster for "auto".

    Raises:
        ResourceError: the running cluster does not answer.
    """
    from ray_jobs.engine.plans.plan import device_of

    return option if option != "auto" else device_of(_nodes(ray_logs=False), 1)


def _planned(config: Config, cluster: str | None) -> list[Node]:
    if cluster is None:
        return _nodes(config.run.ray_logs)
    from ray_jobs.launch_files.check import check_cluster

    return list(check_cluster(cluster, config).nodes)


def _nodes(ray_logs: bool) -> list[Node]:
    """The nodes of the running cluster; without one, this machine, of which only the GPUs are counted."""
    from ray_jobs.engine.connect import cluster_nodes, connect
    from ray_jobs.engine.plans.plan import Node
    from ray_jobs.engine.ray_private import joins_cluster

    if joins_cluster():
        connect(ray_logs, trains=True)
        return cluster_nodes()
    return [Node(0, _own_gpus())]


def this_machine() -> Node:
    """This machine as a node: its CPUs and GPUs."""
    from ray_jobs.engine.plans.plan import Node

    cpus, gpus = os.cpu_count() or 1, _own_gpus()
    if not gpus:
        return Node(cpus)
    from paramcrop.training.gpu.memory import own_card

    return Node(cpus, gpus, own_card())


def _own_gpus() -> int:
    """GPUs that this process sees. Importing torch takes 2 s, so Linux is first asked whether there are any."""
    if sys.platform == "linux" and not [file for name in DRIVERS for file in Path("/dev").glob(name)]:
        return 0
    import torch

    return torch.cuda.device_count()
