"""Divide a cluster whose machines come and go: how many workers there is room for, and what they leave for decoding.

A worker's resources stay what they are when the run begins, because Ray Train starts every worker of a run with the
same. Their number changes, among those that divide the batch, and so do the CPUs for decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paramcrop.errors import ResourceError
from ray_jobs.engine.plans.plan import Node, Plan, decoders_per_task, device_of, fitting, plan_pretraining

CLOSE = 0.021  # CPUs by which sums of rounded shares may differ


@dataclass(frozen=True)
class Elastic:
    """What a run with a range of workers needs.

    Attributes:
        counts: the numbers of workers that it may have, fewest first.
        worker_cpus, worker_gpus: resources of each.
        least: CPUs for decoding without which it does not run.
        each: CPUs for decoding that every worker must bring beyond the fewest, so that more workers are not slower.
        most: CPUs with which it decodes at most; None: with all that are left.
    """

    counts: tuple[int, ...]
    worker_cpus: float
    worker_gpus: float
    least: float
    each: float
    most: float | None


@dataclass(frozen=True)
class Room:
    """What there is at one moment: the live nodes, and the CPUs and GPUs on them that no other command claims."""

    nodes: Sequence[Node]
    cpus: float
    gpus: float


def room_of(nodes: Sequence[Node]) -> Room:
    """All of the nodes."""
    return Room(nodes, sum(n.cpus for n in nodes), sum(n.gpus for n in nodes))


def plan_elastic(
    nodes: Sequence[Node],
    counts: tuple[int, ...],
    device: str = "auto",
    cpus: float | None = None,
    data_cpus: float | None = None,
) -> Elastic:
    """Find what each worker takes: on GPUs, and with ``cpus``, as in ``plan_pretraining``.

    Other CPU workers take what one per machine would take, or the fewest if there are fewer machines.

    Raises:
        ResourceError: there is no room for the fewest workers; the message shows the sums.
    """
    gpu = device_of(nodes, counts[0], device) == "cuda"
    machines = sum(node.cpus > 0 for node in nodes)
    number = counts[0] if gpu or cpus else max([n for n in counts if n <= machines], default=counts[0])
    plan = plan_pretraining(nodes, number, "cuda" if gpu else "cpu", cpus, data_cpus or 1)
    each = 0.0 if gpu or cpus else plan.data_cpus / number
    return Elastic(counts, plan.worker_cpus, plan.worker_gpus, data_cpus or 1, each, data_cpus)


def most_workers(elastic: Elastic, room: Room, most: int | None = None) -> int:
    """The largest number of workers, at most ``most``, for which there is room; 0: not even for the fewest."""
    allowed = [n for n in elastic.counts if most is None or n <= most]
    return max((n for n in allowed if _fits(elastic, room, n)), default=0)


def _fits(elastic: Elastic, room: Room, n: int) -> bool:
    decoding = elastic.least if n == elastic.counts[0] else max(elastic.least, n * elastic.each)
    cpus_fit = n * elastic.worker_cpus + decoding <= room.cpus + CLOSE
    there = places([(node.cpus, node.gpus) for node in room.nodes], elastic)
    return there >= n and cpus_fit and n * elastic.worker_gpus <= room.gpus + CLOSE


def places(nodes: Sequence[tuple[float, float]], elastic: Elastic) -> int:
    """The number of workers that fit on nodes with these (CPUs, GPUs)."""
    return sum(fitting(Node(*node), elastic.worker_cpus, int(elastic.worker_gpus)) for node in nodes)


def plan_for(elastic: Elastic, room: Room, workers: int) -> Plan:
    """The plan with this number of workers.

    Raises:
        ResourceError: there is no room for them.
    """
    left = round(room.cpus - workers * elastic.worker_cpus, 2)
    data_cpus = left if elastic.most is None else min(left, elastic.most)
    gpu = elastic.worker_gpus > 0
    of = " or ".join(map(str, elastic.counts))
    arithmetic = (
        f"{len(room.nodes)} node(s), {room.cpus:g} CPUs, {room.gpus:g} GPUs = {workers} worker(s) of {of} x "
        f"({elastic.worker_cpus:g} CPU{', 1 GPU' if gpu else ''}) + {data_cpus:g} CPUs for decoding"
    )
    if data_cpus < elastic.least - CLOSE:
        raise ResourceError(f"{elastic.least:g} CPUs must be left for decoding, but {arithmetic}")
    decoders = decoders_per_task(room.nodes, data_cpus, workers, elastic.worker_cpus, int(gpu))
    return Plan(workers, elastic.worker_cpus, elastic.worker_gpus, data_cpus, arithmetic, decoders)
