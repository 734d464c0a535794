"""Resource arithmetic: a pure function of the nodes. It prints its sums, and refuses rather than hangs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paramcrop.errors import ResourceError

DRIVER_CPUS = 0.01  # of a trial's driver
CPUS_PER_TRIAL = 4  # for each worker, where there are no GPUs
DECODE_CPUS = 0.94  # Ray Data sets aside what other steps take: of one or two whole CPUs, a decoder's must be left
FEW = 8  # decoders, of which one more or less is to be felt
EVALUATOR_GPU = 0.2  # of the GPU that evaluators share with a worker, if they have none of their own


@dataclass(frozen=True)
class Node:
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What one pretraining takes: ``workers`` x (``worker_cpus``, ``worker_gpus``), and the rest for decoding.

    Attributes:
        decoders: processes that decode together in a task.
    """

    workers: int
    worker_cpus: float
    worker_gpus: float
    data_cpus: float
    arithmetic: str
    decoders: int = 1

    @property
    def threads(self) -> int:
        """Torch threads of a CPU worker: the cores it was given, so that decoding keeps its own."""
        return max(1, round(self.worker_cpus))

    @property
    def use_gpu(self) -> bool:
        return self.worker_gpus > 0


def plan_pretraining(
    nodes: Sequence[Node], workers: int, device: str = "auto", cpus: float | None = None, decoding: float = 1.0
) -> Plan:
    """Divide ``nodes`` between training and decoding.

    A GPU worker takes one GPU and one CPU. CPU workers share 45% of all CPUs (0.9 of 2), so that decoding always has
    one; that is bookkeeping, not a limit on threads. ``cpus`` sets a worker's CPUs by hand; ``decoding`` must be left.

    Raises:
        ResourceError: the workers do not fit, or nothing is left to decode with; the message shows the sum.
    """
    total_cpus, total_gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    gpu = device == "cuda" or (device == "auto" and total_gpus >= workers)
    worker_cpus = cpus or (1.0 if gpu else _cpu_share(nodes, total_cpus, workers))
    data_cpus = round(total_cpus - workers * worker_cpus, 2)
    arithmetic = (
        f"{len(nodes)} node(s), {total_cpus:g} CPUs, {total_gpus:g} GPUs = "
        f"{workers} worker(s) x ({worker_cpus:g} CPU{', 1 GPU' if gpu else ''}) + {data_cpus:g} CPUs for decoding"
    )
    room = sum(_fitting(node, worker_cpus, gpu) for node in nodes)
    if room < workers:
        raise ResourceError(f"train.workers={workers} must fit the cluster, but only {room} do: {arithmetic}")
    if data_cpus < decoding:
        least = "one CPU" if decoding == 1 else f"{decoding:g} CPUs"
        raise ResourceError(
            f"{least} must be left for decoding, but {arithmetic}; lower train.workers or train.cpus_per_worker"
        )
    decoders = decoders_per_task(nodes, data_cpus, workers, worker_cpus, gpu)
    return Plan(workers, worker_cpus, float(gpu), data_cpus, arithmetic, decoders)


def decoders_per_task(
    nodes: Sequence[Node], data_cpus: float, workers: int = 0, worker_cpus: float = 1.0, gpu: bool = False
) -> int:
    """How many decode a task together, so that a batch comes at their pace, not at one's.

    Two; one where a CPU would be left over that is to be felt, or a node, full of ``workers``, have only one.
    """
    whole = int(data_cpus / DECODE_CPUS)
    left = [n.cpus - min(workers, _fitting(n, worker_cpus, gpu)) * worker_cpus for n in nodes]
    odd = (whole % 2 == 1 and whole <= FEW) or any(DECODE_CPUS <= cpus < 2 * DECODE_CPUS for cpus in left)
    return 2 if whole >= 2 and max(left) >= 2 * DECODE_CPUS and not odd else 1


@dataclass(frozen=True)
class EvaluationPlan:
    """A pool of ``actors``, each with ``cpus`` and ``gpus`` (a share of one, maybe); the rest of the CPUs decodes."""

    actors: int
    cpus: float
    gpus: float
    threads: int  # torch's, of one on CPUs
    ahead: int  # videos that each has decoded beforehand
    arithmetic: str


def plan_evaluations(nodes: Sequence[Node], actors: int | None = None, device: str = "auto") -> EvaluationPlan:
    """Divide ``nodes`` between evaluators and decoding.

    Without a number of ``actors``: one for each GPU, or, on CPUs, one. GPUs are shared evenly where there are more.

    Raises:
        ResourceError: they do not fit, or nothing is left to decode with; the message shows the sum.
    """
    total_cpus, total_gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    if device == "cuda" and not total_gpus:
        raise ResourceError("--device cuda needs a GPU in the cluster, but it has none")
    gpu = total_gpus > 0 and device != "cpu"
    actors = actors or (int(total_gpus) if gpu else 1)
    share = math.floor(100 * min(1.0, total_gpus / actors)) / 100 if gpu else 0.0
    if gpu and share < 1:
        share = 1 / math.ceil(1 / share)  # a whole number of them fits on each GPU
    cpus = 1.0 if gpu else _cpu_share(nodes, total_cpus, actors)
    left = round(total_cpus - actors * cpus, 2)
    each = f"{cpus:g} CPU{f', {share:.3g} GPU' if gpu else ''}"
    arithmetic = (
        f"{len(nodes)} node(s), {total_cpus:g} CPUs, {total_gpus:g} GPUs = "
        f"{actors} evaluator(s) x ({each}) + {left:g} CPUs for decoding"
    )
    room = actors if gpu else sum(_fitting(node, cpus, gpu=False) for node in nodes)
    if room < actors:
        raise ResourceError(f"--evaluators {actors} must fit the nodes, but only {room} do: {arithmetic}")
    if left < 1:
        raise ResourceError(f"one CPU must be left for decoding, but {arithmetic}; lower --evaluators")
    threads, ahead = max(1, round(cpus)), max(2, math.ceil(2 * left / actors))
    return EvaluationPlan(actors, cpus, share, threads, ahead, arithmetic)


@dataclass(frozen=True)
class SweepPlan:
    """``trials`` at once, each with a ``pretraining``; a pool of evaluators for all of them."""

    trials: int
    pretraining: Plan
    evaluation: EvaluationPlan
    arithmetic: str


def plan_sweep(
    nodes: Sequence[Node], workers: int, device: str = "auto", cpus: float | None = None, trials: int | None = None
) -> SweepPlan:
    """Divide ``nodes`` between trials, which pretrain and then have themselves evaluated, and evaluators.

    With GPUs: as many trials as fit, less one whose GPUs evaluate; where only one fits, evaluators take a fifth of one
    of its GPUs. On CPUs: a trial for every four CPUs a worker, and evaluators take none, for they work when their
    trial does not pretrain. Every trial's driver takes 0.01 CPU: Tune allows no less.

    Raises:
        ResourceError: no trial fits, or nothing is left to decode with; the message shows the sum.
    """
    total_cpus, total_gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    if device == "cuda" or (device == "auto" and total_gpus >= workers):
        return _plan_gpu_sweep(nodes, workers, cpus or 1.0, trials)
    trials = trials or max(1, int(total_cpus // (CPUS_PER_TRIAL * workers)))
    each = total_cpus / trials - DRIVER_CPUS
    worker_cpus = cpus or _cpu_share(nodes, each, workers)
    data_cpus = round(each - workers * worker_cpus, 2)
    told = f"{workers} worker(s) x ({worker_cpus:g} CPU) + {data_cpus:g} CPUs for decoding + {DRIVER_CPUS} CPU"
    arithmetic = f"{_told(nodes)} = {trials} trial(s) at once x ({told}); its evaluator takes their place"
    _check_sweep(nodes, workers, worker_cpus, 0.0, data_cpus, trials, arithmetic)
    threads = max(1, round(workers * worker_cpus))
    pool = EvaluationPlan(trials, 0.0, 0.0, threads, max(2, math.ceil(2 * data_cpus)), arithmetic)
    decoders = decoders_per_task(nodes, data_cpus, trials * workers, worker_cpus, gpu=False)
    return SweepPlan(trials, Plan(workers, worker_cpus, 0, data_cpus, arithmetic, decoders), pool, arithmetic)


def _plan_gpu_sweep(nodes: Sequence[Node], workers: int, cpus: float, trials: int | None) -> SweepPlan:
    total_cpus, total_gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    fit = int(total_gpus // workers)
    if trials is None:
        trials = fit - 1 if fit > 1 and total_gpus == fit * workers else max(fit, 1)
    spare = int(total_gpus - trials * workers)
    worker_gpus, share = (1.0, 1.0) if spare > 0 else (1 - EVALUATOR_GPU, EVALUATOR_GPU)
    evaluators = min(spare, trials) if spare > 0 else 1
    left = total_cpus - trials * (workers * cpus + DRIVER_CPUS) - evaluators
    data_cpus = round(left / trials, 2)
    told = f"{workers} worker(s) x ({cpus:g} CPU, {worker_gpus:g} GPU) + {data_cpus:g} CPUs for decoding"
    told += f" + {DRIVER_CPUS} CPU"
    arithmetic = (
        f"{_told(nodes)} = {trials} trial(s) at once x ({told}) + {evaluators} evaluator(s) x (1 CPU, {share:g} GPU)"
    )
    _check_sweep(nodes, workers, cpus, worker_gpus, data_cpus, trials, arithmetic)
    pool = EvaluationPlan(evaluators, 1.0, share, 1, max(2, math.ceil(2 * data_cpus)), arithmetic)
    decoders = decoders_per_task(nodes, data_cpus, trials * workers + evaluators, cpus, gpu=True)
    return SweepPlan(trials, Plan(workers, cpus, worker_gpus, data_cpus, arithmetic, decoders), pool, arithmetic)


def _check_sweep(
    nodes: Sequence[Node], workers: int, cpus: float, gpus: float, data_cpus: float, trials: int, arithmetic: str
) -> None:
    """Raises:
    ResourceError: the workers of all trials do not fit the nodes, or nothing is left to decode with.
    """
    room = sum(_fitting(node, cpus, gpus > 0) for node in nodes) // workers
    if room < trials:
        raise ResourceError(f"{trials} trial(s) at once must fit the cluster, but only {room} do: {arithmetic}")
    if data_cpus < 1:
        raise ResourceError(
            f"each trial must have one CPU left for decoding, but {arithmetic}; lower --concurrent or train.workers"
        )


def _cpu_share(nodes: Sequence[Node], cpus: float, processes: int) -> float:
    """What each of so many processes takes of ``cpus``: 45 % in all, and at most nine tenths of the node it lies on."""
    largest = max((node.cpus for node in nodes), default=0.0)
    return max(int(min(45 * cpus / processes, 90 * largest)) / 100, 0.01)


def _told(nodes: Sequence[Node]) -> str:
    return f"{len(nodes)} node(s), {sum(n.cpus for n in nodes):g} CPUs, {sum(n.gpus for n in nodes):g} GPUs"


def _fitting(node: Node, cpus: float, gpu: bool) -> int:
    by_cpu = int(node.cpus / cpus + 1e-9)
    return min(by_cpu, int(node.gpus)) if gpu else by_cpu
