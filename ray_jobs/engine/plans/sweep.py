"""Divide a cluster between a sweep's trials and its evaluators: pure functions of its nodes, which show their sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paramcrop.errors import ResourceError
from ray_jobs.engine.plans.plan import (
    GROWS,
    EvaluationPlan,
    Node,
    Plan,
    check_cpus,
    check_gpus,
    cpu_share,
    decoders_per_task,
    device_of,
    fitting,
    show_decoding,
    show_total,
)

DRIVER_CPUS = 0.01  # CPUs of a trial's driver; Tune does not allow 0
CPUS_PER_TRIAL = 4  # CPUs per worker of a trial, without GPUs or where trials share one
EVALUATOR_GPU = 0.2  # share of a worker's GPU for the evaluator, if there is no GPU left for it


@dataclass(frozen=True)
class Sharing:
    """How many trials may share a GPU.

    Attributes:
        trials: the most; None: as many as its memory holds, with four CPUs for each.
        memory: GPU memory that a trial takes, GiB.
    """

    trials: int | None
    memory: float


@dataclass(frozen=True)
class SweepPlan:
    """``trials`` concurrent trials, each with the resources ``pretraining``, and one pool of evaluators for all.

    Attributes:
        gpus: GPUs of which they have all or a part, so that no other command may use them.
        per_gpu: trials that share a GPU.
    """

    trials: int
    pretraining: Plan
    evaluation: EvaluationPlan
    arithmetic: str
    gpus: int = 0
    per_gpu: int = 1


def plan_sweep(
    nodes: Sequence[Node],
    workers: int,
    device: str = "auto",
    cpus: float | None = None,
    trials: int | None = None,
    left: int | None = None,
    sharing: Sharing | None = None,
) -> SweepPlan:
    """Divide ``nodes`` between evaluators and trials, which pretrain first and then wait for their evaluations.

    With GPUs, run as many trials as fit, minus one, whose GPUs go to the evaluators; if only one trial fits, the
    evaluator takes a fifth of its GPUs. Where trials share GPUs, each of these is several trials. On CPUs, run one
    trial per four CPUs and worker. Evaluators then reserve no CPU, because they work while their trial does not
    pretrain.

    Args:
        workers: workers of a trial. cpus: CPUs of each; None: planned.
        trials: trials at once; None: planned. left: trials that are left to run: fewer divide the GPUs among them.
        sharing: how many trials with one worker may share a GPU; None: each has its own.

    Raises:
        ResourceError: no trial fits, nothing is left for decoding, or a GPU cannot hold so many trials; the message
            shows the sums.
    """
    if device_of(nodes, workers, device) == "cuda":
        return _plan_gpu_sweep(nodes, workers, cpus or 1.0, trials, left, sharing)
    total_cpus = sum(n.cpus for n in nodes)
    trials = trials or max(1, int(total_cpus // (CPUS_PER_TRIAL * workers)))
    if cpus is None:
        named = f"train.workers={workers}" + (f" in each of {trials} trials at once" if trials > 1 else "")
        check_cpus(named, workers * trials, total_cpus, GROWS)
    each = total_cpus / trials - DRIVER_CPUS
    worker_cpus = cpus or cpu_share(nodes, each, workers)
    data_cpus = round(each - workers * worker_cpus, 2)
    trial = f"{workers} worker(s) x ({worker_cpus:g} CPU) + {show_decoding(data_cpus)} + {DRIVER_CPUS} CPU"
    arithmetic = (
        f"{show_total(nodes)} = {trials} trial(s) at once x ({trial}); evaluators reuse the CPUs of their trial"
    )
    _check_fit(nodes, workers, worker_cpus, 0, data_cpus, trials, arithmetic)
    threads = max(1, round(workers * worker_cpus))
    pool = EvaluationPlan(trials, 0.0, 0.0, threads, max(2, math.ceil(2 * data_cpus)), arithmetic)
    decoders = decoders_per_task(nodes, data_cpus, trials * workers, worker_cpus)
    return SweepPlan(trials, Plan(workers, worker_cpus, 0, data_cpus, arithmetic, decoders), pool, arithmetic)


def _plan_gpu_sweep(
    nodes: Sequence[Node], workers: int, cpus: float, trials: int | None, left: int | None, sharing: Sharing | None
) -> SweepPlan:
    total_cpus, total_gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    check_gpus(workers, total_gpus)
    fit = int(total_gpus // workers)
    per_gpu = trials_per_gpu(nodes, workers, trials if left is None else _at_most(left, trials or left), sharing)
    if trials is None:  # keep GPUs for the evaluators: the remainder of the division, or those of one trial
        trials = per_gpu * (fit - 1 if fit > 1 and total_gpus == fit * workers else max(fit, 1))
    trials = _at_most(left, trials)
    taken = math.ceil(trials / per_gpu) * workers
    spare = int(total_gpus - taken)
    # Without a spare GPU, the trials give up a fifth of each GPU; the evaluator runs on one of these fifths.
    of_gpu, share = (1.0, 1.0) if spare > 0 else (1 - EVALUATOR_GPU, EVALUATOR_GPU)
    worker_gpus = math.floor(1e4 * of_gpu / per_gpu + 1e-6) / 1e4  # Ray counts ten-thousandths
    evaluators = min(spare, trials) if spare > 0 else 1
    data_cpus = round((total_cpus - trials * (workers * cpus + DRIVER_CPUS) - evaluators) / trials, 2)
    trial = f"{workers} worker(s) x ({cpus:g} CPU, {worker_gpus:.3g} GPU) + {show_decoding(data_cpus)}"
    trial += f" + {DRIVER_CPUS} CPU"
    arithmetic = (
        f"{show_total(nodes)} = {trials} trial(s) at once x ({trial}) + {evaluators} evaluator(s) x "
        f"(1 CPU, {share:g} GPU){show_memory(nodes, worker_gpus, sharing)}"
    )
    _check_fit(nodes, workers, cpus, per_gpu, data_cpus, trials, arithmetic)
    # A limit where GPUs are shared: a process that takes more than its part ends itself, and not its neighbours.
    limit, evaluators_limit = (worker_gpus, share if spare <= 0 else None) if per_gpu > 1 else (None, None)
    pool = EvaluationPlan(evaluators, 1.0, share, 1, max(2, math.ceil(2 * data_cpus)), arithmetic, evaluators_limit)
    decoders = decoders_per_task(nodes, data_cpus, trials * workers + evaluators, cpus, per_gpu)
    pretraining = Plan(workers, cpus, worker_gpus, data_cpus, arithmetic, decoders, limit)
    gpus = taken + (evaluators if spare > 0 else 0)
    return SweepPlan(trials, pretraining, pool, arithmetic, gpus, per_gpu)


def trials_per_gpu(nodes: Sequence[Node], workers: int, most: int | None, sharing: Sharing | None) -> int:
    """How many trials share each GPU of ``nodes``.

    Args:
        most: trials that are to run at once; None: as many as possible.

    Raises:
        ResourceError: the number of ``sharing`` does not fit the memory of the smallest GPU.
    """
    if sharing is None or sharing.trials == 1 or workers > 1:
        return 1
    card = card_of(nodes)
    room = card * (1 - EVALUATOR_GPU)  # the evaluator may be on any GPU
    by_memory = int(room / sharing.memory) if sharing.memory else 1
    if sharing.trials is not None and card and sharing.trials > by_memory:
        mend = f"lower it to {by_memory}" if by_memory > 1 else "leave it out"
        raise ResourceError(
            f"--trials-per-gpu {sharing.trials} must fit the GPUs, but a trial takes about {sharing.memory:.3g} GiB, "
            f"and {sharing.trials} of them may take {room:.3g} of a GPU's {card:.3g} GiB; {mend}"
        )
    gpus = sum(n.gpus for n in nodes)
    by_cpu = int(sum(n.cpus for n in nodes) // (CPUS_PER_TRIAL * gpus))
    found = sharing.trials or max(1, min(by_memory, by_cpu))
    return found if most is None else max(1, min(found, math.ceil(most / gpus)))


def card_of(nodes: Sequence[Node]) -> float:
    """The memory of the smallest GPU, GiB; 0: it is not known."""
    return min((node.card for node in nodes if node.gpus), default=0.0)


def show_memory(nodes: Sequence[Node], worker_gpus: float, sharing: Sharing | None) -> str:
    """What a trial takes of a GPU's memory, and what it may take."""
    if sharing is None:
        return ""
    card = card_of(nodes)
    may = f" and may take {worker_gpus * card:.3g} of a GPU's {card:.3g}" if card else "; that of the GPUs is not known"
    return f"; a trial takes about {sharing.memory:.3g} GiB of GPU memory{may}"


def _at_most(left: int | None, trials: int) -> int:
    return trials if left is None else max(1, min(left, trials))


def _check_fit(
    nodes: Sequence[Node], workers: int, cpus: float, per_gpu: int, data_cpus: float, trials: int, arithmetic: str
) -> None:
    """Check that all trials fit.

    Args:
        per_gpu: workers on each GPU; 0: they need none.

    Raises:
        ResourceError: the workers of all trials do not fit the nodes, or nothing is left for decoding.
    """
    room = sum(fitting(node, cpus, per_gpu) for node in nodes) // workers
    if room < trials:
        raise ResourceError(f"{trials} trial(s) at once must fit the cluster, but only {room} do: {arithmetic}")
    if data_cpus < 1:
        fewer = "--trials-per-gpu, --concurrent" if per_gpu > 1 else "--concurrent"
        raise ResourceError(
            f"each trial must have one CPU left for decoding, but {arithmetic}; lower {fewer} or train.workers"
        )
