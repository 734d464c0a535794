"""Resource arithmetic: a pure function of the nodes. It prints its sums, and refuses rather than hangs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paramcrop.errors import ResourceError


@dataclass(frozen=True)
class Node:
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What one pretraining takes: ``workers`` x (``worker_cpus``, ``worker_gpus``), and the rest for decoding."""

    workers: int
    worker_cpus: float
    worker_gpus: int
    data_cpus: float
    arithmetic: str

    @property
    def threads(self) -> int:
        """Torch threads of a CPU worker: the cores it was given, so that decoding keeps its own."""
        return max(1, round(self.worker_cpus))

    @property
    def use_gpu(self) -> bool:
        return self.worker_gpus > 0


def plan_pretraining(nodes: Sequence[Node], workers: int, device: str = "auto", cpus: float | None = None) -> Plan:
    """Divide ``nodes`` between training and decoding.

    A GPU worker takes one GPU and one CPU. CPU workers share 45% of all CPUs (0.9 of 2), so that decoding always has
    one; that is bookkeeping, not a limit on threads. ``cpus`` sets a worker's CPUs by hand.

    Raises:
        ResourceError: the workers do not fit, or nothing is left to decode with; the message shows the sum.
    """
    total_cpus, total_gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    gpu = device == "cuda" or (device == "auto" and total_gpus >= workers)
    worker_cpus = cpus or (1.0 if gpu else max(int(45 * total_cpus / workers) / 100, 0.01))
    data_cpus = round(total_cpus - workers * worker_cpus, 2)
    arithmetic = (
        f"{len(nodes)} node(s), {total_cpus:g} CPUs, {total_gpus:g} GPUs = "
        f"{workers} worker(s) x ({worker_cpus:g} CPU{', 1 GPU' if gpu else ''}) + {data_cpus:g} CPUs for decoding"
    )
    room = sum(_fitting(node, worker_cpus, gpu) for node in nodes)
    if room < workers:
        raise ResourceError(f"train.workers={workers} must fit the cluster, but only {room} do: {arithmetic}")
    if data_cpus < 1:
        raise ResourceError(
            f"one CPU must be left for decoding, but {arithmetic}; lower train.workers or train.cpus_per_worker"
        )
    return Plan(workers, worker_cpus, int(gpu), data_cpus, arithmetic)


def _fitting(node: Node, cpus: float, gpu: bool) -> int:
    by_cpu = int(node.cpus / cpus + 1e-9)
    return min(by_cpu, int(node.gpus)) if gpu else by_cpu
