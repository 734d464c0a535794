"""Divide a cluster's CPUs and GPUs: pure functions of its nodes, which show their sums.

A plan that does not fit is an error here. Ray would wait for ever for resources that do not exist.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paramcrop.errors import ResourceError

DECODE_CPUS = 0.94  # CPUs of a decoder; below 1, because the other steps of Ray Data need a part of each CPU as well
FEW = 8  # with at most this many decoders, one idle CPU is a noticeable loss


@dataclass(frozen=True)
class Node:
    """A machine: its CPUs, its GPUs, and the memory of each GPU in GiB; 0: not known, or no GPU."""

    cpus: float
    gpus: float = 0.0
    card: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The resources of one pretraining.

    Attributes:
        workers: number of training workers. worker_cpus, worker_gpus: resources of each.
        data_cpus: CPUs for decoding. decoders: decoder processes per decode task.
        arithmetic: the sums, for display.
        memory_share: share of a GPU's memory that a worker may take, in (0, 1); None: there is no limit.
    """

    workers: int
    worker_cpus: float
    worker_gpus: float
    data_cpus: float
    arithmetic: str
    decoders: int = 1
    memory_share: float | None = None

    @property
    def threads(self) -> int:
        """Torch threads of a CPU worker: its own cores, so that decoding keeps the others."""
        return max(1, round(self.worker_cpus))

    @property
    def use_gpu(self) -> bool:
        return self.worker_gpus > 0


def device_of(nodes: Sequence[Node], workers: int, device: str = "auto") -> str:
    """The device of ``workers``, "cpu" or "cuda": with "auto", GPUs if there is one for each."""
    if device != "auto":
        return device
    return "cuda" if sum(n.gpus for n in nodes) >= workers else "cpu"


def plan_pretraining(
    nodes: Sequence[Node], workers: int, device: str = "auto", cpus: float | None = None, decoding: float = 1.0
) -> Plan:
    """Divide ``nodes`` between training and decoding.

    A GPU worker takes one GPU and one CPU. CPU workers share 45 % of all CPUs (0.9 of 2), so that at least one is left
    for decoding. Ray's CPUs are bookkeeping; they do not limit threads.

    Args:
        cpus: CPUs of each worker; None: as above.
        decoding: CPUs that must be left for decoding.

    Raises:
        ResourceError: the workers do not fit, or too little is left for decoding; the message shows the sums.
    """
    total_cpus, total_gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    gpu = device_of(nodes, workers, device) == "cuda"
    check_gpus(workers if gpu else 0, total_gpus)
    if not gpu and cpus is None:
        check_cpus(f"train.workers={workers}", workers, total_cpus, GROWS)
    worker_cpus = cpus or (1.0 if gpu else cpu_share(nodes, total_cpus, workers))
    data_cpus = round(total_cpus - workers * worker_cpus, 2)
    arithmetic = (
        f"{len(nodes)} node(s), {total_cpus:g} CPUs, {total_gpus:g} GPUs = "
        f"{workers} worker(s) x ({worker_cpus:g} CPU{', 1 GPU' if gpu else ''}) + {show_decoding(data_cpus)}"
    )
    room = sum(fitting(node, worker_cpus, int(gpu)) for node in nodes)
    if room < workers:
        raise ResourceError(f"train.workers={workers} must fit the cluster, but only {room} do: {arithmetic}")
    if data_cpus < decoding:
        least = "one CPU" if decoding == 1 else f"{decoding:g} CPUs"
        raise ResourceError(
            f"{least} must be left for decoding, but {arithmetic}; lower train.workers or train.cpus_per_worker"
        )
    decoders = decoders_per_task(nodes, data_cpus, workers, worker_cpus, int(gpu))
    return Plan(workers, worker_cpus, float(gpu), data_cpus, arithmetic, decoders)


def decoders_per_task(
    nodes: Sequence[Node], data_cpus: float, workers: int = 0, worker_cpus: float = 1.0, per_gpu: int = 0
) -> int:
    """The number of processes that decode the videos of one task.

    Blocks come in order, so a batch waits for its slowest task, and two processes halve that wait. A task then needs
    two CPUs on one node. Return 1 if pairs would leave a noticeable share of the CPUs idle: with an odd number of few
    decoders, or on a node where the workers leave a single CPU.
    """
    total = int(data_cpus / DECODE_CPUS)
    # The workers' placement is not known yet: assume the worst for each node, that it is filled with workers.
    left = [n.cpus - min(workers, fitting(n, worker_cpus, per_gpu)) * worker_cpus for n in nodes]
    odd = (total % 2 == 1 and total <= FEW) or any(DECODE_CPUS <= cpus < 2 * DECODE_CPUS for cpus in left)
    return 2 if total >= 2 and max(left) >= 2 * DECODE_CPUS and not odd else 1


@dataclass(frozen=True)
class EvaluationPlan:
    """A pool of ``actors``, each with ``cpus`` and ``gpus`` (perhaps a share of one); the other CPUs decode."""

    actors: int
    cpus: float
    gpus: float
    threads: int  # torch threads of an actor on CPUs
    ahead: int  # decode tasks that each actor keeps in flight
    arithmetic: str
    memory_share: float | None = None  # share of a GPU's memory that an actor may take, in (0, 1); None: no limit


def plan_evaluations(nodes: Sequence[Node], actors: int | None = None, device: str = "auto") -> EvaluationPlan:
    """Divide ``nodes`` between evaluators and decoding.

    By default there is one actor per GPU, or a single one on CPUs. If there are more ``actors`` than GPUs, they share
    the GPUs evenly.

    Raises:
        ResourceError: they do not fit, or nothing is left for decoding; the message shows the sums.
    """
    total_cpus, total_gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    if device == "cuda" and not total_gpus:
        raise ResourceError("--device cuda needs a GPU in the cluster, but it has none")
    gpu = device_of(nodes, 1, device) == "cuda"
    actors = actors or (int(total_gpus) if gpu else 1)
    share = math.floor(100 * min(1.0, total_gpus / actors)) / 100 if gpu else 0.0
    if gpu and share < 1:
        share = 1 / math.ceil(1 / share)  # so that the shares of one GPU add up to 1
    if not gpu:
        check_cpus(f"--evaluators {actors}", actors, total_cpus, "ask for fewer")
    cpus = 1.0 if gpu else cpu_share(nodes, total_cpus, actors)
    left = round(total_cpus - actors * cpus, 2)
    each = f"{cpus:g} CPU{f', {share:.3g} GPU' if gpu else ''}"
    arithmetic = (
        f"{len(nodes)} node(s), {total_cpus:g} CPUs, {total_gpus:g} GPUs = "
        f"{actors} evaluator(s) x ({each}) + {show_decoding(left)}"
    )
    room = actors if gpu else sum(fitting(node, cpus) for node in nodes)
    if room < actors:
        raise ResourceError(f"--evaluators {actors} must fit the nodes, but only {room} do: {arithmetic}")
    if left < 1:
        raise ResourceError(f"one CPU must be left for decoding, but {arithmetic}; lower --evaluators")
    threads, ahead = max(1, round(cpus)), max(2, math.ceil(2 * left / actors))
    return EvaluationPlan(actors, cpus, share, threads, ahead, arithmetic)


def plan_jobs(nodes: Sequence[Node], jobs: int, actors: int | None = None, device: str = "auto") -> EvaluationPlan:
    """``plan_evaluations`` with no more evaluators than ``jobs``."""
    plan = plan_evaluations(nodes, actors, device)
    return plan if plan.actors <= jobs else plan_evaluations(nodes, jobs, device)


GROWS = "lower train.workers, or set train.wait_minutes on a cluster that grows when asked"


def check_gpus(needed: int, gpus: float) -> None:
    """Raises:
    ResourceError: there are fewer GPUs.
    """
    if needed > gpus:
        there = f"there are {gpus:g}" if gpus else "there is none"
        raise ResourceError(
            f"train.device=cuda needs a GPU for each of {needed} worker(s), but {there}; leave it out to train on CPUs"
            f"{', or lower train.workers' if gpus else ''}"
        )


def show_decoding(cpus: float) -> str:
    return f"{cpus:g} CPUs for decoding" if cpus >= 0 else "no CPU for decoding"


def check_cpus(what: str, processes: int, cpus: float, fix: str) -> None:
    """Raises:
    ResourceError: there are more processes than CPUs; they would be so slow that they seem to wait.
    """
    if processes > max(cpus, 1):
        raise ResourceError(f"{what} needs a CPU for each of {processes} processes, but there are {cpus:g}; {fix}")


def cpu_share(nodes: Sequence[Node], cpus: float, processes: int) -> float:
    """The CPUs of each of ``processes``: together 45 % of ``cpus``, and each at most 90 % of the largest node."""
    largest = max((node.cpus for node in nodes), default=0.0)
    return max(int(min(45 * cpus / processes, 90 * largest)) / 100, 0.01)


def show_total(nodes: Sequence[Node]) -> str:
    return f"{len(nodes)} node(s), {sum(n.cpus for n in nodes):g} CPUs, {sum(n.gpus for n in nodes):g} GPUs"


def fitting(node: Node, cpus: float, per_gpu: int = 0) -> int:
    """The number of workers that fit on a node, with ``per_gpu`` on each GPU; 0: they need none."""
    by_cpu = int(node.cpus / cpus + 1e-6)  # Ray's amounts are rounded to ten-thousandths
    return min(by_cpu, int(node.gpus) * per_gpu) if per_gpu else by_cpu
