"""Admission: of the commands on one Ray, those run together that fit together; the others wait, and say for what.

Without it, two commands block each other: the workers of each hold CPUs that the other's decode tasks wait for. Every
command claims its share before it starts anything. A claim is an empty placement group whose name says who claims what.
It needs no process, every driver on the cluster can read it, and Ray removes it with its driver, however that ends.
"""

from __future__ import annotations

import json
import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import ray
from ray.util import placement_group, placement_group_table, remove_placement_group

from paramcrop.errors import Abandoned, ResourceError
from ray_jobs.engine.plans.elastic import Elastic
from ray_jobs.engine.plans.plan import DECODE_CPUS, EvaluationPlan, Plan
from ray_jobs.engine.plans.sweep import DRIVER_CPUS, SweepPlan

POLL = 1.0  # seconds between two attempts to be admitted
EMPTY = {"memory": 1}  # a placement group needs a resource: a byte
CLOSE = 0.011  # CPUs by which sums of rounded shares may differ

Amounts = Mapping[str, float]  # "CPU", "GPU" -> their number


@dataclass(frozen=True)
class Claim:
    """What a command holds, or waits for.

    Attributes:
        who: the command, for others to read.
        cpus, gpus: what it holds. A waiting command holds nothing.
        since: when it began to wait, in seconds since 1970; 0: it runs.
        id: makes the name of its placement group unique.
    """

    who: str
    cpus: float = 0.0
    gpus: float = 0.0
    since: float = 0.0
    id: str = ""


@dataclass(frozen=True)
class Need:
    """The least with which a command runs.

    Attributes:
        takes_rest: whether it takes all CPUs that nobody else claims; its decode tasks can use them.
        most_gpus: GPUs that it takes where nobody else claims them.
    """

    cpus: float
    gpus: float = 0.0
    takes_rest: bool = True
    most_gpus: float = 0.0


def need_of_pretraining(plan: Plan, data_cpus: float | None) -> Need:
    """The workers, and ``data_cpus`` to decode with: by default all that are left, but at least one."""
    workers = plan.workers * plan.worker_cpus
    return Need(workers + (data_cpus or 1), plan.workers * plan.worker_gpus, takes_rest=data_cpus is None)


def need_of_elastic(run: Elastic) -> Need:
    """The fewest workers, and what they decode with. More workers take what is free when they start."""
    fewest, most = run.counts[0], run.counts[-1]
    cpus = fewest * run.worker_cpus + run.least
    return Need(cpus, fewest * run.worker_gpus, takes_rest=run.most is None, most_gpus=most * run.worker_gpus)


def need_of_evaluations(plan: EvaluationPlan) -> Need:
    return Need(plan.actors * plan.cpus + 1, plan.actors * plan.gpus)


def need_of_sweep(plan: SweepPlan) -> Need:
    one, pool = need_of_pretraining(plan.pretraining, None), plan.evaluation
    cpus = plan.trials * (one.cpus + DRIVER_CPUS) + pool.actors * pool.cpus
    return Need(cpus, plan.gpus)


def within(plan: Plan, cpus: float) -> Plan:
    """The same plan with no more than ``cpus`` in all, its share: other commands have the rest."""
    left = round(cpus - plan.workers * plan.worker_cpus, 2)
    if left > plan.data_cpus - CLOSE:
        return plan
    arithmetic = f"{plan.arithmetic}, of which this command decodes with {left:g}"
    return replace(
        plan, data_cpus=left, decoders=plan.decoders if left >= 2 * DECODE_CPUS else 1, arithmetic=arithmetic
    )


def shortage(need: Need, claims: Sequence[Claim], total: Amounts, free: Amounts) -> str:
    """Why a command with this need cannot start now, as text; empty: it can.

    Args:
        claims: those of other commands. total, free: the cluster's CPUs and GPUs, and those that nothing uses now.
    """
    reasons = list[str]()
    for kind, needed, held in (
        ("CPU", need.cpus, sum(claim.cpus for claim in claims)),
        ("GPU", need.gpus, sum(claim.gpus for claim in claims)),
    ):
        there = total.get(kind, 0.0)
        left = max(0.0, min(there - held, free.get(kind, 0.0)))
        if needed > left + CLOSE:
            reasons.append(f"{left:.3g} of {there:g} {kind}s are free, and this command needs {needed:.3g}")
    holders = [claim.who for claim in claims if not claim.since]
    by = f"; running: {', '.join(holders)}" if holders else "; other programs on this Ray use the rest"
    return f"{' and '.join(reasons)}{by}" if reasons else ""


def turn(claims: Sequence[Claim], since: float) -> str:
    """Why a command that waits since then has to let others start first; empty: it is its turn."""
    before = [claim.who for claim in claims if claim.since and claim.since < since]
    return f"{len(before)} command(s) came before this one: {', '.join(before)}" if before else ""


@contextmanager
def admitted(need: Need, what: str, say: Callable[[str], None]) -> Iterator[float]:
    """Yield the CPUs of this command's share once it fits beside the other commands; give them back at the end.

    Args:
        what: what the command does, for others who wait. say: receives the reason for waiting whenever it changes.

    Raises:
        ResourceError: the whole cluster has less than ``need``.
    """
    total = ray.cluster_resources()
    if need.cpus > total.get("CPU", 0.0) + CLOSE or need.gpus > total.get("GPU", 0.0) + CLOSE:
        raise ResourceError(
            f"this command needs {need.cpus:g} CPUs and {need.gpus:g} GPUs, but the cluster has "
            f"{total.get('CPU', 0.0):g} and {total.get('GPU', 0.0):g}"
        )
    who = named(what)
    queued, since, said = None, time.time(), ""
    try:
        while isinstance(held := _enter(need, who, since), str):
            if held != said:
                say(f"waiting: {held}")
                said = held
            queued = queued or _announce(Claim(who, since=since))
            time.sleep(random.uniform(0.5, 1.5) * POLL)  # two that met at the same moment meet again less likely
    finally:
        _withdraw(queued)
    group, cpus = held
    try:
        yield cpus
    except Abandoned:  # Ray may not answer any more; it removes the claim with this process
        raise
    except BaseException:
        _withdraw(group)
        raise
    _withdraw(group)


def named(what: str) -> str:
    """The name of this process's claims for ``what``."""
    return f"{what} (process {os.getpid()} on {socket.gethostname()})"


def _enter(need: Need, who: str, since: float) -> tuple[Any, float] | str:
    """Claim the need, unless it is not this command's turn -> (its placement group, CPUs), or why it has to wait."""
    claims, total = read_claims(), ray.cluster_resources()
    reason = turn(claims, since) or shortage(need, claims, total, ray.available_resources())
    if reason:
        return reason
    cpus, gpus = need.cpus, need.gpus
    if need.takes_rest:
        cpus = max(cpus, round(total.get("CPU", 0.0) - sum(claim.cpus for claim in claims), 2))
    if need.most_gpus:
        gpus = max(gpus, min(need.most_gpus, total.get("GPU", 0.0) - sum(claim.gpus for claim in claims)))
    group = _announce(Claim(who, cpus, gpus))
    # Another command may have claimed the same between the look and the claim. At least one of the two sees the other
    # now, and whoever sees one withdraws.
    claims = [claim for claim in read_claims() if claim.id != group.id.hex()]
    if reason := shortage(Need(cpus, gpus), claims, total, total):
        _withdraw(group)
        return reason
    return group, cpus


def read_claims() -> list[Claim]:
    """The claims of all commands on this Ray; ``id`` is that of the placement group."""
    found = []
    for key, group in placement_group_table().items():
        if group["state"] != "REMOVED" and str(group["name"]).startswith('{"paramcrop": '):
            facts = json.loads(group["name"])["paramcrop"] | {"id": key}
            found.append(Claim(**{field.name: facts[field.name] for field in fields(Claim) if field.name in facts}))
    return found


def _announce(claim: Claim) -> Any:
    """A placement group with this name, which the cluster knows once this returns."""
    return placement_group([EMPTY], name=json.dumps({"paramcrop": asdict(claim) | {"id": uuid.uuid4().hex}}))


def _withdraw(group: Any) -> None:
    if group is not None and ray.is_initialized():
        remove_placement_group(group)
