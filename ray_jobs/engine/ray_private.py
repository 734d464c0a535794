"""Every private name of Ray that this program uses, and what it does with a version of Ray that lacks the name.

Ray may rename them in any release. Each one is a ``Name`` that states what its absence costs. No function raises an
error because a name is absent: it falls back to a slower or noisier way, and reports the absence once, in one line. The
driver looks for a name when it uses it; ``check`` looks for the names that only other processes use.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
import time
from importlib import import_module
from typing import Any

from ray_jobs.engine.names import Name, check

WAIT = 0.02  # seconds that a step of Ray Data's loop waits for tasks; its own value is 0.1
SHORTEST, LONGEST = 0.005, 0.1  # seconds of a pause
QUICK = 0.01  # seconds; a step that waits for tasks takes longer
KEPT = 1000  # blocks per operator whose statistics are kept

# Ray's log lines on the console

LINES = Name("ray._private.ray_logging", "stdout_deduplicator", "", "its warnings about idle workers are shown")


def hide_lines(pattern: re.Pattern[str]) -> None:
    """Hide workers' lines that match, unless RAY_DEDUP_LOGS_SKIP_REGEX sets another pattern."""
    found: Any = LINES.find()
    if not hasattr(found, "skip_re"):
        LINES.report()
    elif found.skip_re is None:
        found.skip_re = pattern


# Whether there is a cluster to join

ADDRESS = Name(
    *("ray._private.services", "canonicalize_bootstrap_address", ""), "every command connects before it looks at runs"
)


def joins_cluster() -> bool:
    """Whether ``ray.init()`` joins a cluster, and does not start one."""
    found: Any = ADDRESS.find()
    if found is None:
        ADDRESS.report()
        return True
    try:
        return found(None) is not None
    except ValueError:  # RAY_ADDRESS is invalid, which ``ray.init`` reports
        return True


# Where workers find this code

PATH = Name("ray.job_config", "JobConfig", "_py_driver_sys_path", "workers need a runtime_env and start later")


def worker_path(folders: list[str]) -> dict[str, Any]:
    """Arguments of ``ray.init`` that make workers import from ``folders``, searching the last one first."""
    made: Any = PATH.find()
    try:
        return {"job_config": made(_py_driver_sys_path=folders)}
    except TypeError:  # no such argument, or no such class
        PATH.report()
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")  # add to the environment of a submitted job
    path = [*reversed(folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(path)}}} if folders else {}


# Ray Data's loop: when it polls and which statistics it keeps, for which there are no settings

LOOP = "ray.data._internal.execution"
CALLBACK = Name(f"{LOOP}.execution_callback", "ExecutionCallback", "", "batches come later, and statistics grow")
WAIT_TIME = Name(
    *(f"{LOOP}.streaming_executor_state", "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S", ""), "batches come up to 0.1 s later"
)
FETCHER = Name(f"{LOOP}.metadata_fetcher", "InlineMetadataFetcher", "", "batches come up to 0.1 s later")
FETCHES = Name(f"{LOOP}.streaming_executor", "StreamingExecutor", "_metadata_fetcher", FETCHER.cost)
STEPS = Name(f"{LOOP}.streaming_executor", "StreamingExecutor", "_topology", "waiting for the trainer uses a core")
STATS = Name(f"{LOOP}.operators.map_operator", "MapOperator", "_output_blocks_stats", "long runs use more memory")


def loop_callbacks() -> list[type]:
    """``Pace`` and ``Forget`` as callback classes of Ray Data's loop; empty if Ray has no such callbacks."""
    base = CALLBACK.find()
    return [] if base is None else [type(own.__name__, (own, base), {}) for own in (Pace, Forget)]


class Pace:
    """Shortens the waits of Ray Data's loop, and pauses it after idle steps, longer each time.

    A step of the loop waits until *all* running tasks have output, or until its time is over. A thread then fetches the
    metadata of the output, which the loop takes one step later. So the next task started 0.2 s after the last had
    ended: 8 % of the time of a task that decodes 64 videos.

    Once the buffer of decoded blocks is full, all tasks have output, none of it can be taken, and the loop spins: this
    took 0.85 of a core from training for as long as it lasted.
    """

    def __init__(self) -> None:
        self._pause, self._woke = 0.0, 0.0
        self._done: int | None = None

    def before_execution_starts(self, executor: Any) -> None:
        """Set the wait and the fetcher in the process of the loop: neither is a setting of a dataset."""
        if WAIT_TIME.is_there():
            setattr(import_module(WAIT_TIME.module), WAIT_TIME.name, WAIT)
        fetcher = FETCHER.find()
        if fetcher is not None and hasattr(executor, FETCHES.attribute):
            executor._metadata_fetcher = fetcher()

    def on_execution_step(self, executor: Any) -> None:
        done = _tasks_done(executor)
        idle = done is not None and done == self._done and time.monotonic() - self._woke < QUICK
        self._pause = min(LONGEST, max(SHORTEST, 2 * self._pause)) if idle else 0.0
        time.sleep(self._pause)
        self._done, self._woke = done, time.monotonic()


def _tasks_done(executor: Any) -> int | None:
    """A number that grows with every action of the loop; None if it cannot be determined."""
    try:
        counts = [operator.metrics for operator in getattr(executor, STEPS.attribute) or ()]
        return int(sum(m.num_tasks_submitted + m.num_task_outputs_generated for m in counts))
    except (AttributeError, TypeError):
        return None


class Forget:
    """Keeps the statistics of the last blocks only.

    Ray Data keeps them for every block, for the ``stats()`` of a finished dataset: 1 kB per block in the process of the
    loop, about 6 GB for 200 epochs of Kinetics, which are a single execution here.
    """

    def on_execution_step(self, executor: Any) -> None:
        for operator in getattr(executor, STEPS.attribute, None) or ():
            kept = getattr(operator, STATS.attribute, None)
            if isinstance(kept, list):
                del kept[:-KEPT]


# Ray Data's plan of a dataset

PLAN = Name("ray.data", "Dataset", "_logical_plan", "cutting decode tasks takes CPUs from decoding")


def lighten(repartitioned: Any, cpus: float, tasks: int) -> None:
    """Make a repartition run ``tasks`` tasks with ``cpus`` each. It has no options for that, and reserves full CPUs."""
    step: Any = getattr(getattr(repartitioned, PLAN.attribute, None), "dag", None)
    arguments: Any = getattr(step, "ray_remote_args", None)
    compute: Any = getattr(step, "compute", None)
    if isinstance(arguments, dict) and hasattr(compute, "size"):
        arguments["num_cpus"] = cpus
        compute.size = tasks
    else:
        PLAN.report()


# Ray Train's errors

CAUSE = Name("ray.train.v2._internal.exceptions", "UserExceptionWithTraceback", "_base_exc", "errors have tracebacks")


def linked_errors(error: BaseException) -> list[BaseException]:
    """The errors that caused ``error``. Without the private name, a command ends with Ray's own error."""
    linked = list(getattr(error, "worker_failures", {}).values())
    linked += [getattr(error, name, None) for name in (CAUSE.attribute, "cause", "__cause__", "controller_failure")]
    return [one for one in linked if isinstance(one, BaseException)]


# Ray Train's policy for a range of workers

FIXED = "a run with a range of workers keeps the number that it begins with"
POLICY = Name(
    "ray.train.v2._internal.execution.scaling_policy", "ElasticScalingPolicy", "_count_possible_workers", FIXED
)
START = Name("ray.train.v2.api.data_parallel_trainer", "DataParallelTrainer", "_initialize_and_run_controller", FIXED)


def with_policy(trainer: type, own: type, *arguments: Any) -> type | None:
    """A kind of ``trainer`` whose policy is Ray Train's elastic one with ``own`` before it; None: Ray has none.

    Args:
        arguments: of ``own``'s method ``prepare``.
    """
    if not (POLICY.is_there() and START.is_there()):
        check((POLICY, START))
        return None
    base: Any = POLICY.find()

    def start(self: Any, **given: Any) -> Any:
        policy = type(own.__name__, (own, base), {})(self.scaling_config)
        policy.prepare(*arguments)
        return getattr(trainer, START.attribute)(self, **given | {"scaling_policy": policy})

    return type(trainer.__name__, (trainer,), {START.attribute: start})


# `ray up`

PREPARE = Name("ray.autoscaler._private.util", "prepare_config", "", "launch files pass without Ray's own validation")
VALIDATE = Name("ray.autoscaler._private.util", "validate_config", "", PREPARE.cost)


def ray_problems(values: dict[str, Any]) -> list[str]:
    """What `ray up` rejects in a launch file before it contacts the cloud: one line, or none."""
    prepare, validate = PREPARE.find(), VALIDATE.find()
    if prepare is None or validate is None:
        check((PREPARE, VALIDATE))
        return []
    try:
        validate(prepare(copy.deepcopy(values)))
    except Exception as error:  # jsonschema's, ValueError and others: Ray does not document which
        text = str(getattr(error, "message", "") or error).strip().splitlines()
        return [f"`ray up` rejects the file: {text[0] if text else type(error).__name__}"]
    return []


# Placement groups whose creators have died

GROUPS = Name(
    *("ray._private.state", "state", ""),
    "what was reserved for a run on a machine that is lost may stay reserved",
)


def remove_orphans() -> int:
    """Remove this job's placement groups whose creator has died -> their number.

    Ray keeps them until the job ends, and moves them to other machines, where trials then wait for the place that they
    take. Ray Train removes its own, but not those of a controller that dies before its workers have started.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    found: Any = GROUPS.find()
    orphans = list[PlacementGroup]()
    try:
        table = import_module("ray.core.generated.gcs_pb2").PlacementGroupTableData
        groups = map(table.FromString, found._connect_and_get_accessor().get_placement_group_table())
        job = ray.get_runtime_context().get_job_id()
        for group in groups:
            dead = group.creator_actor_dead and group.creator_actor_id.strip(b"\xff")  # without an actor, it is all ff
            if dead and not group.is_detached and group.state != table.REMOVED and group.creator_job_id.hex() == job:
                orphans.append(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
    except (ImportError, AttributeError):
        GROUPS.report()
    for orphan in orphans:
        remove_placement_group(orphan)
    return len(orphans)


DATA = (CALLBACK, WAIT_TIME, FETCHER, FETCHES, STEPS, STATS, PLAN, CAUSE, GROUPS)  # used by the processes of a training


# Draining a node

CLIENT = Name("ray._raylet", "GcsClient", "", "the command `ray drain-node` drains a node, seconds later")
REASON = "DRAIN_NODE_REASON_PREEMPTION"


def drain_node(address: str, node_id: str, deadline: float, why: str) -> str:
    """Tell Ray that a node will be taken away at ``deadline`` (seconds since 1970) -> "", or why Ray refuses."""
    client: Any = CLIENT.find()
    try:
        reason = import_module("ray.core.generated.autoscaler_pb2").DrainNodeReason.Value(REASON)
        taken, text = client(address=address).drain_node(node_id, reason, why, round(1000 * deadline))
        return "" if taken else text or "no"
    except (ImportError, AttributeError, TypeError):
        CLIENT.report()
    left = max(0, round(deadline - time.time()))
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", address, "--node-id", node_id]
    command += ["--reason", REASON, "--reason-message", why, "--deadline-remaining-seconds", str(left)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip()
