"""Check launch files before they cost anything: the nodes that they start, and their problems. Imports no Ray.

There are three kinds: a plain YAML list of nodes ({cpus, gpus, gpu_gib, count}), Ray's own format for cloud machines
(`ray up`), and KubeRay's RayCluster and RayJob.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from paramcrop.errors import ConfigError, DataError
from paramcrop.settings.config import Config
from paramcrop.settings.explain import nearest
from paramcrop.settings.presets import shipped
from ray_jobs.engine.plans.plan import Node
from ray_jobs.launch_files.kube import kube_nodes, kube_problems
from ray_jobs.launch_files.vm import vm_nodes, vm_problems

PLACEHOLDER = re.compile(r"REPLACE-[A-Z]+")
RAY = "2.60"  # the version that pyproject.toml pins; a test compares them


class ClusterFile(NamedTuple):
    """A launch file.

    Attributes:
        kind: "nodes", "vm" or "kube". documents: its YAML documents.
        nodes: the largest cluster that it starts. problems: what must be fixed, one line each.
        open: placeholders that are still to be filled in.
    """

    kind: str
    documents: list[Any]
    nodes: list[Node]
    problems: list[str]
    open: list[str]


def find_cluster(name: str) -> Path:
    """The path of a launch file, given as a path or as the name of a shipped one, such as ``aws`` or ``rayjob``."""
    given, folder = Path(name).expanduser(), shipped("cluster")
    below = given.relative_to("cluster") if given.parts[:1] == ("cluster",) else given
    places = (given, folder / below, folder / f"{below}.yaml", folder / "kuberay" / f"{below}.yaml")
    return next((path for path in places if path.is_file()), given)


def read_cluster(path: str) -> ClusterFile:
    """Read a launch file, given by its path or the name of a shipped one.

    Raises:
        ConfigError: it cannot be read, or it is of an unknown kind.
    """
    try:
        text = find_cluster(path).read_text()
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except OSError as error:
        known = sorted(file.stem for file in shipped("cluster").rglob("*.yaml"))
        expected = f"a readable file or one of {', '.join(known)}"
        raise ConfigError(f"--cluster must be {expected}: {path}: {error.strerror}{nearest(path, known)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--cluster must be YAML: {path}: {' '.join(str(error).split())}") from None
    first = documents[0] if documents else None
    found: ClusterFile
    if isinstance(first, dict) and "provider" in first:
        found = ClusterFile("vm", documents, vm_nodes(first, path), list(vm_problems(first)), [])
    elif isinstance(first, dict) and str(first.get("apiVersion", "")).startswith("ray.io/"):
        found = ClusterFile("kube", documents, kube_nodes(documents, path), list(kube_problems(documents)), [])
    else:
        found = ClusterFile("nodes", documents, plain_nodes(first, path), [], [])
    problems = [*found.problems, *images(text)]
    return found._replace(problems=problems, open=sorted(set(PLACEHOLDER.findall(text))))


def plain_nodes(values: Any, path: str) -> list[Node]:
    """The nodes of a plain list.

    Raises:
        ConfigError: it is not a list of nodes.
    """
    try:
        sizes = [[float(one["cpus"]), float(one.get("gpus", 0)), float(one.get("gpu_gib", 0))] for one in values]
        nodes = [(Node(*size), int(one.get("count", 1))) for size, one in zip(sizes, values, strict=True)]
    except (TypeError, KeyError, ValueError, AttributeError):
        expected = "a YAML list of nodes such as {cpus: 16, gpus: 8, count: 2}, or a launch file of Ray or KubeRay"
        raise ConfigError(f"--cluster must be {expected}, but {path} is neither") from None
    return [node for node, count in nodes for _ in range(count)]


def images(text: str) -> Iterator[str]:
    """Check that the tag of each image names the Ray version of this code."""
    for image in sorted(set(re.findall(r"image: *[\"']?([^\s\"'#]+)", text))):
        tag = image.rpartition(":")[2] if ":" in image.rpartition("/")[2] else "none"
        if not re.search(rf"\bray{re.escape(RAY)}\.\d+\b", tag):
            yield f"an image's tag must name this code's Ray version, ray{RAY}.x, but the tag of {image} is {tag}"


def storage_problems(cluster: ClusterFile, config: Config) -> Iterator[str]:
    """Check that a run's storage is shared by all nodes and writable from here."""
    storage = config.run.storage
    machines = len(cluster.nodes)
    if storage is None and machines > 1:
        yield (
            f"run.storage must be the URI of a bucket or a folder that all {machines} nodes share, but is not set; "
            "each node would use its own disk"
        )
    elif storage is not None and "://" in storage:
        from paramcrop.storage.mirror import check_writable

        try:
            check_writable(storage)
        except DataError as error:
            yield str(error)


def gpu_problems(cluster: ClusterFile, config: Config) -> Iterator[str]:
    """Check that there is a GPU for each worker, and that all GPUs could share a batch."""
    gpus, t = int(sum(node.gpus for node in cluster.nodes)), config.train
    if gpus and t.device != "cpu":
        if config.worker_counts[0] > gpus:
            yield f"train.workers={t.workers} must be at most the {gpus} GPUs"
        if t.global_batch % gpus:
            yield f"train.global_batch must be a multiple of the {gpus} GPUs, but is {t.global_batch}"


def check_cluster(path: str, config: Config) -> ClusterFile:
    """Read a launch file and collect all its problems, with those of Ray's own validation and of the run's settings."""
    cluster = read_cluster(path)
    problems = [*cluster.problems, *storage_problems(cluster, config), *gpu_problems(cluster, config)]
    if cluster.kind == "vm":
        from ray_jobs.engine.ray_private import ray_problems

        problems += ray_problems(cluster.documents[0])
    return cluster._replace(problems=problems)


def describe_cluster(path: str, cluster: ClusterFile) -> str:
    """The nodes, the problems and the open placeholders of a launch file, as text."""
    counts = Counter(f"{node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in cluster.nodes)
    lines = [f"cluster: {path}, at most " + "; ".join(f"{n} x ({kind})" for kind, n in counts.items())]
    lines += [f"  problem: {problem}" for problem in cluster.problems]
    if cluster.open:
        lines.append(f"  to be filled in before the launch: {', '.join(cluster.open)}")
    return "\n".join(lines)


def raise_problems(path: str, cluster: ClusterFile) -> None:
    """Raise an error if the file has problems, which ``describe_cluster`` lists.

    Raises:
        ConfigError: it has.
    """
    if cluster.problems:
        n = len(cluster.problems)
        raise ConfigError(f"{path} has {n} problem{'s' * (n > 1)}, see above; fix {'them' if n > 1 else 'it'} first")
