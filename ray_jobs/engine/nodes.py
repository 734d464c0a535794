"""The nodes of a cluster: whether each sees the folders, how large its GPUs are, and what a lost one had reserved."""

from __future__ import annotations

import hashlib
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from paramcrop.data.manifest import MANIFEST
from paramcrop.errors import ConfigError, ResourceError
from paramcrop.storage.files import local_path
from paramcrop.storage.mirror import Mirror
from paramcrop.training.gpu.memory import own_card
from ray_jobs.engine.plans.plan import Node
from ray_jobs.engine.ray_private import remove_orphans

SECONDS = 120.0  # that a node may take to answer
PAUSE = 5.0  # seconds between two looks for what lost nodes had reserved


def check_visible(places: Iterable[Mirror | str], data: Iterable[str]) -> None:
    """Check that every node sees these folders. URIs of buckets and a cluster of one node need no check.

    Args:
        places: folders to write to; a file that is written here must be there. data: datasets; as is their manifest.

    Raises:
        ConfigError: one of ``places`` is not writable.
        ResourceError: a node does not see a folder.
    """
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2:
        return
    with ExitStack() as stack:
        marks = [stack.enter_context(_mark(path)) for path in _local(places)]
        marks += [path / MANIFEST for path in _local(data)]
        if marks:
            _ask(nodes, {str(mark): digest_of(mark) for mark in marks})


def _local(places: Iterable[Mirror | str]) -> list[Path]:
    """The folders among the places, each once."""
    return [path for place in dict.fromkeys(map(str, places)) if (path := local_path(place)) is not None]


def _ask(nodes: Mapping[str, str], marks: dict[str, str]) -> None:
    for host, lacks in _answers(nodes, missing, marks):
        if lacks:
            raise _unseen(f"all {len(nodes)} nodes", host, Path(lacks[0]).parent)


def check_seen(file: Path) -> None:
    """Check that this node sees a folder, by a file in it. The node may have joined after ``check_visible`` asked.

    Raises:
        ResourceError: it does not.
    """
    if not file.is_file():
        raise _unseen("all nodes", socket.gethostname(), file.parent)


def _unseen(nodes: str, host: str, folder: Path) -> ResourceError:
    return ResourceError(
        f"{nodes} must see the folders of runs, sweeps and videos, but {host} does not see {folder}; use a folder that "
        "all of them share or a URI, as in run.storage=s3://BUCKET/runs, data.shards=s3://BUCKET/shards and "
        "--data NAME=s3://BUCKET/shards"
    )


def with_cards(nodes: Sequence[Node]) -> list[Node]:
    """The same nodes with the memory of the cluster's smallest GPU as that of each.

    Raises:
        ResourceError: a node does not know the memory of its GPUs.
    """
    alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    cards = dict(_answers({node["NodeID"]: node["NodeManagerHostname"] for node in alive}, own_card))
    if unknown := [host for host, card in cards.items() if not card]:
        raise ResourceError(
            f"--trials-per-gpu needs to know the memory of all GPUs, but torch sees none on {unknown[0]}; leave it out"
        )
    return [replace(node, card=min(cards.values())) if node.gpus else node for node in nodes]


def _answers(nodes: Mapping[str, str], function: Callable[..., Any], *arguments: Any) -> Iterator[tuple[str, Any]]:
    """Call ``function`` on every node -> its host and the answer.

    Args:
        nodes: id -> host.

    Raises:
        ResourceError: a node does not answer.
    """
    # max_calls: the process ends afterwards, so that it holds no GPU and no memory.
    task: Any = ray.remote(num_cpus=0, max_calls=1)(function)
    places = {node: NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes}
    answers = {node: task.options(scheduling_strategy=place).remote(*arguments) for node, place in places.items()}
    for node, answer in answers.items():
        try:
            yield nodes[node], ray.get(answer, timeout=SECONDS)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ResourceError(f"node {nodes[node]} must answer, but: {reason}") from None


@contextmanager
def _mark(folder: Path) -> Iterator[Path]:
    """A file in the folder, for the duration of the block."""
    mark = folder / f".visible-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(mark.name)
    except OSError as error:
        raise ConfigError(f"{folder} must be a writable folder: {error.strerror}") from None
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def missing(marks: dict[str, str]) -> list[str]:
    """The files that this node does not have, or not with the content of this digest."""
    return [name for name, digest in marks.items() if digest_of(Path(name)) != digest]


def digest_of(file: Path) -> str:
    """The SHA-256 of a file; "" if it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


@contextmanager
def orphans_removed() -> Iterator[None]:
    """Free, within the block, what lost nodes had reserved for other attempts of this job's runs.

    Ray learns only after seconds that a node is lost, and the next attempt of a trial may have begun by then.
    """
    ended = Event()
    thread = Thread(target=_remove_orphans, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _remove_orphans(ended: Event) -> None:
    while not ended.wait(PAUSE):
        try:
            remove_orphans()
        except Exception:  # Ray does not answer, or has just ended: the run says so itself
            continue
