"""A run whose number of workers follows the machines that there are, by Ray Train's elastic policy.

Ray Train looks every ``LOOK`` seconds how many workers there is room for, and starts all of them anew, from the newest
checkpoint, when that changes. Three things are added to it here: only numbers that divide the batch, room for decoding,
and a checkpoint before workers that are well are ended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
from ray.train import DataConfig

from ray_jobs.engine.admission import read_claims
from ray_jobs.engine.connect import cluster_nodes
from ray_jobs.engine.plans.elastic import CLOSE, Elastic, Room, most_workers, places, plan_for, room_of
from ray_jobs.engine.plans.plan import Plan

LOOK = 10.0  # seconds between two looks for machines that have come
RECENT = 3 * LOOK  # seconds for which a checkpoint is new enough to go on from
SAVING = 600.0  # seconds to wait for a checkpoint that was asked for; it comes with the next line of metrics
PAUSE = 1.0  # seconds between two looks while there are too few machines to run at all

_asked: list[float] = []  # in the process of a worker: when it was asked for a checkpoint
_lines: list[
    float
] = []  # in the process of a worker: when it first looked whether it was, at its first line of metrics


def room_now(who: str) -> Room:
    """What the cluster has now, less what commands other than ``who`` claim."""
    room, others = room_of(cluster_nodes()), [claim for claim in read_claims() if claim.who != who]
    cpus, gpus = sum(claim.cpus for claim in others), sum(claim.gpus for claim in others)
    return replace(room, cpus=round(room.cpus - cpus, 2), gpus=room.gpus - gpus)


def plan_now(run: Elastic, who: str, workers: int) -> Plan:
    """The plan for this number of workers on the cluster as it is."""
    return plan_for(run, room_now(who), workers)


def plan_to_begin(run: Elastic, who: str) -> Plan:
    """The plan for as many workers as there is room for now."""
    room = room_now(who)
    return plan_for(run, room, most_workers(run, room) or run.counts[0])


def ask_to_save() -> bool:
    """Ask the worker in this process to save a checkpoint within the epoch -> whether it has anything new to save."""
    _asked.append(time.monotonic())
    return bool(_lines)


def asked_to_save() -> str:
    """Which request for a checkpoint was the last one of this process; "": there was none."""
    if not _lines:
        _lines.append(time.monotonic())
    return f"request {len(_asked)}" if _asked else ""


class Resizing:
    """What is changed in Ray Train's elastic policy; it lives in the controller of the run.

    Attributes:
        run: what the workers need. who: the name of this command's claims.
        saved: when the last checkpoint was reported. asked: since when another one is waited for; None: none is.
        answer: of the worker that was asked; see ``ask_to_save``.
        waiting: whether the terminal has been told that there is no room for the fewest workers.
    """

    run: Elastic
    who: str
    saved: float
    asked: float | None
    answer: Any
    waiting: bool

    def prepare(self, run: Elastic, who: str) -> None:
        self.run, self.who, self.saved = run, who, -math.inf
        self.asked, self.answer, self.waiting = None, None, False

    def _count_possible_workers(self, reserved_resources: Mapping[str, Mapping[str, float]]) -> int:
        """The number of workers to run. Ray Train reserves room for the most; other commands may claim some of it.

        Args:
            reserved_resources: node -> its resources that are reserved for this run; perhaps of nodes that have gone.
        """
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        there = [(r.get("CPU", 0.0), r.get("GPU", 0.0)) for node, r in reserved_resources.items() if node in alive]
        return most_workers(self.run, room_now(self.who), places(there, self.run))

    def make_decision_for_non_running_worker_group(self) -> Any:
        base: Any = super()
        decision = base.make_decision_for_non_running_worker_group()
        room = room_now(self.who)
        fits = most_workers(self.run, room) > 0
        if not fits and not self.waiting:
            print(
                f"waiting: the fewest of train.workers, {self.run.counts[0]}, do not fit on what is there, "
                f"{len(room.nodes)} node(s) with {room.cpus:g} CPUs and {room.gpus:g} GPUs for this run",
                flush=True,
            )  # Ray shows it on the terminal of the command
        self.waiting = not fits
        if not hasattr(decision, "num_workers"):
            time.sleep(PAUSE)  # the controller asks again at once
        return decision

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        """Ray Train's decision. A change of the number waits for a checkpoint, which rank 0 is asked for.

        Workers without a step have none to wait for. They may even wait themselves, for a CPU that decodes: after a
        machine was lost, all of them can have started on one that is left.
        """
        base: Any = super()
        state, now = (worker_group_state, worker_group_status), time.monotonic()
        if any(status.training_report for status in worker_group_status.worker_statuses.values()):
            self.saved, self.asked = now, None
        decision = base.make_decision_for_running_worker_group(*state)
        if not hasattr(decision, "num_workers"):
            return decision
        if self.asked is not None and self.asked < worker_group_state.start_time:
            self.asked = None  # the workers that were asked have been replaced
        late = self.asked is not None and now - self.asked > SAVING
        if self._has_gpus(decision.num_workers - worker_group_state.num_workers):
            if late or now - self.saved < RECENT or self._nothing_to_save():
                self.asked = None
                return decision
            if self.asked is None:
                self.asked = now
                self.answer = worker_group_state.workers[0].execute_async(ask_to_save)
        return base.make_decision_for_running_worker_group(*state)  # so soon after a look, it says to go on

    def _nothing_to_save(self) -> bool:
        """Whether the worker that was asked has answered that it has taken no step yet."""
        if self.asked is None:
            return False
        try:
            return ray.get(self.answer, timeout=0) is False
        except ray.exceptions.RayError:  # not answered yet, or gone; then Ray Train replaces it
            return False

    def _has_gpus(self, more: int) -> bool:
        """Whether so many more workers find a GPU that nothing on this Ray uses."""
        free: float = ray.available_resources().get("GPU", 0.0)
        return more <= 0 or more * self.run.worker_gpus <= free + CLOSE


class Dealing(DataConfig):
    """Makes the dataset for the number of workers that have been started, and deals it to them."""

    def configure(
        self, datasets: dict[str, Any], world_size: int, worker_handles: Any, worker_node_ids: Any, **kwargs: Any
    ) -> Any:
        """See Ray Train's; for a dataset it is given a function: number of workers -> the dataset, and its options."""
        ((name, make),) = datasets.items()
        dataset, options = make(world_size)
        fixed = DataConfig(execution_options=options, enable_shard_locality=False)
        return fixed.configure({name: dataset}, world_size, worker_handles, worker_node_ids)
