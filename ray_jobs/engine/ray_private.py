"""Every private name of Ray that this program touches, and how it works on with a Ray that has no such name.

Ray may rename them in any release. Each is a ``Name`` with what its absence costs. Nothing raises because one is
absent: the function that uses it takes a slower or noisier way, and the absence is reported once, in one line. Names
that are used on the driver are looked for when they are used; ``check`` looks for those that other processes use.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from inspect import isfunction
from typing import Any

WAIT = 0.02  # seconds; Ray Data's is 0.1
SHORTEST, LONGEST = 0.005, 0.1  # seconds of a pause
QUICK = 0.01  # seconds; a step that has waited for something takes longer
KEPT = 1000  # blocks of each operator

_reported: set[str] = set()


@dataclass(frozen=True)
class Name:
    """A private name of Ray: one of a module, or an attribute that a class of a module sets.

    Attributes:
        cost: what happens without it.
    """

    module: str
    name: str
    attribute: str
    cost: str

    def find(self) -> Any | None:
        """What the module has under the name; None: it is absent."""
        try:
            return getattr(import_module(self.module), self.name, None)
        except ImportError:
            return None

    def is_there(self) -> bool:
        """Whether the name is there and, as instances come later, the class's own code has the attribute."""
        found = self.find()
        if found is None or not self.attribute:
            return found is not None
        codes = [function.__code__ for function in vars(found).values() if isfunction(function)]
        return any(self.attribute in code.co_names + code.co_varnames for code in codes)

    def report(self) -> None:
        """Say once in this process that it is absent."""
        full = ".".join(part for part in (self.module, self.name, self.attribute) if part)
        if full not in _reported:
            _reported.add(full)
            print(f"note: Ray {import_module('ray').__version__} has no {full}: {self.cost}", file=sys.stderr)


def check(names: tuple[Name, ...]) -> None:
    """Report those that are absent."""
    for name in names:
        if not name.is_there():
            name.report()


# Ray's log lines on the console

LINES = Name("ray._private.ray_logging", "stdout_deduplicator", "", "its remarks on idle workers are shown")


def hide_lines(pattern: re.Pattern[str]) -> None:
    """Keep workers' lines that match off the console, unless RAY_DEDUP_LOGS_SKIP_REGEX says what is kept off."""
    found: Any = LINES.find()
    if not hasattr(found, "skip_re"):
        LINES.report()
    elif found.skip_re is None:
        found.skip_re = pattern


# Where workers find this code

PATH = Name("ray.job_config", "JobConfig", "_py_driver_sys_path", "a runtime_env has it, so workers start later")


def worker_path(folders: list[str]) -> dict[str, Any]:
    """Arguments of ``ray.init`` by which workers import from ``folders``, the last one first."""
    made: Any = PATH.find()
    try:
        return {"job_config": made(_py_driver_sys_path=folders)}
    except TypeError:  # no such argument, or no such class
        PATH.report()
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")  # add to the environment of a submitted job
    path = [*reversed(folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(path)}}} if folders else {}


# Ray Data's loop, where settings do not reach: when it looks, and what it keeps

LOOP = "ray.data._internal.execution"
CALLBACK = Name(f"{LOOP}.execution_callback", "ExecutionCallback", "", "batches come later, and statistics grow")
WAIT_TIME = Name(
    *(f"{LOOP}.streaming_executor_state", "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S", ""), "batches come up to 0.1 s later"
)
FETCHER = Name(f"{LOOP}.metadata_fetcher", "InlineMetadataFetcher", "", "batches come up to 0.1 s later")
FETCHES = Name(f"{LOOP}.streaming_executor", "StreamingExecutor", "_metadata_fetcher", FETCHER.cost)
STEPS = Name(f"{LOOP}.streaming_executor", "StreamingExecutor", "_topology", "waiting for the trainer takes a core")
STATS = Name(f"{LOOP}.operators.map_operator", "MapOperator", "_output_blocks_stats", "long runs take more memory")


def loop_callbacks() -> list[type]:
    """``Pace`` and ``Forget``, as callbacks of Ray Data's loop; none where it has no callbacks."""
    base = CALLBACK.find()
    return [] if base is None else [type(own.__name__, (own, base), {}) for own in (Pace, Forget)]


class Pace:
    """Shorter waits, and a pause after a step of the loop that neither waited nor did anything, longer each time.

    A step waits until *all* running tasks have something to give, or its time is over; what one gives is then looked up
    in a thread, and taken a step later. So the next task began .2 s after one had ended: 8 % of the time of one that
    decodes 64 videos.

    When as much is decoded ahead as may be, all have something to give at once, nothing is taken, and it looks again:
    seen to take .85 of a core from training for as long as it lasts.
    """

    def __init__(self) -> None:
        self._pause, self._woke = 0.0, 0.0
        self._done: int | None = None

    def before_execution_starts(self, executor: Any) -> None:
        """Neither is a setting that travels with a dataset."""
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
    """A number that grows with all that the loop does; None: it cannot be told."""
    try:
        counts = [operator.metrics for operator in getattr(executor, STEPS.attribute) or ()]
        return int(sum(m.num_tasks_submitted + m.num_task_outputs_generated for m in counts))
    except (AttributeError, TypeError):
        return None


class Forget:
    """Keep what the last blocks took, not all.

    Ray Data keeps it of every block, for the ``stats()`` of a dataset that has come to its end: 1 kB each, in the
    process of the loop, some 6 GB for 200 epochs of Kinetics, which are one execution here.
    """

    def on_execution_step(self, executor: Any) -> None:
        for operator in getattr(executor, STEPS.attribute, None) or ():
            kept = getattr(operator, STATS.attribute, None)
            if isinstance(kept, list):
                del kept[:-KEPT]


# Ray Data's plan of a dataset

PLAN = Name("ray.data", "Dataset", "_logical_plan", "cutting decode tasks takes CPUs that could decode")


def lighten(repartitioned: Any, cpus: float, tasks: int) -> None:
    """Let a repartition run ``tasks`` tasks of ``cpus`` each: it has no options for that, and takes whole CPUs."""
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
    """The errors that one was raised for; without the private one, Ray's own error is what a command ends with."""
    linked = list(getattr(error, "worker_failures", {}).values())
    linked += [getattr(error, name, None) for name in (CAUSE.attribute, "cause", "__cause__", "controller_failure")]
    return [one for one in linked if isinstance(one, BaseException)]


DATA = (CALLBACK, WAIT_TIME, FETCHER, FETCHES, STEPS, STATS, PLAN, CAUSE)  # used by processes of a training


# Ray Tune's Optuna searcher

STUDY = Name(
    "ray.tune.search.optuna", "OptunaSearch", "_ot_study", "trials are asked of Optuna, not of Tune's searcher"
)
TRIALS = Name("ray.tune.search.optuna", "OptunaSearch", "_ot_trials", STUDY.cost)


def study_of(search: Any) -> Any | None:
    """A searcher's study, which also gives the numbers of its trials (``number_of``); None: neither can be had."""
    for name in (STUDY, TRIALS):
        if not hasattr(search, name.attribute):
            name.report()
            return None
    return getattr(search, STUDY.attribute)


def number_of(search: Any, trial_id: str) -> int:
    """The number in the study of a trial that the searcher has suggested."""
    return int(getattr(search, TRIALS.attribute)[trial_id].number)


# `ray up`

PREPARE = Name("ray.autoscaler._private.util", "prepare_config", "", "launch files pass without Ray's own validation")
VALIDATE = Name("ray.autoscaler._private.util", "validate_config", "", PREPARE.cost)


def ray_problems(values: dict[str, Any]) -> list[str]:
    """What `ray up` would refuse in a launch file before it asks the cloud; one line, or none."""
    prepare, validate = PREPARE.find(), VALIDATE.find()
    if prepare is None or validate is None:
        check((PREPARE, VALIDATE))
        return []
    try:
        validate(prepare(copy.deepcopy(values)))
    except Exception as error:  # jsonschema's, ValueError and others: Ray does not say which
        text = str(getattr(error, "message", "") or error).strip().splitlines()
        return [f"`ray up` must take the file, but says: {text[0] if text else type(error).__name__}"]
    return []


# Draining a node

CLIENT = Name("ray._raylet", "GcsClient", "", "a node is drained by the command `ray drain-node`, seconds later")
REASON = "DRAIN_NODE_REASON_PREEMPTION"


def drain_node(address: str, node_id: str, deadline: float, why: str) -> str:
    """Tell Ray that a node goes at ``deadline`` (seconds since 1970) -> "" once Ray takes it, else what it says."""
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
