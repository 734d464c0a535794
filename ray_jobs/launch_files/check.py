"""Launch files, before they cost anything: which nodes they bring, and what is wrong with them. Imports no Ray.

Three kinds are known: a plain YAML list of nodes ({cpus, gpus, count}), Ray's own for machines of a cloud
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
from ray_jobs.engine.plan import Node
from ray_jobs.launch_files.kube import kube_nodes, kube_problems
from ray_jobs.launch_files.vm import vm_nodes, vm_problems

PLACEHOLDER = re.compile(r"REPLACE-[A-Z]+")
RAY = "2.60"  # pinned in pyproject.toml; a test holds it


class ClusterFile(NamedTuple):
    """What a launch file brings at its largest.

    Attributes:
        kind: "nodes", "vm" or "kube". documents: its YAML documents.
        nodes: at most. problems: what must be mended, a line each. open: what is still to be filled in.
    """

    kind: str
    documents: list[Any]
    nodes: list[Node]
    problems: list[str]
    open: list[str]


def find_cluster(name: str) -> Path:
    """A path, or the name of a shipped launch file: ``aws``, ``cluster/aws.yaml``, ``kuberay/rayjob``."""
    given, folder = Path(name).expanduser(), shipped("cluster")
    below = given.relative_to("cluster") if given.parts[:1] == ("cluster",) else given
    places = (given, folder / below, folder / f"{below}.yaml", folder / "kuberay" / f"{below}.yaml")
    return next((path for path in places if path.is_file()), given)


def read_cluster(path: str) -> ClusterFile:
    """A launch file, by its path or the name of a shipped one.

    Raises:
        ConfigError: it cannot be read, or is of no kind that is known.
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
    """Raises:
    ConfigError: it is not a list of nodes.
    """
    try:
        nodes = [(Node(float(one["cpus"]), float(one.get("gpus", 0))), int(one.get("count", 1))) for one in values]
    except (TypeError, KeyError, ValueError, AttributeError):
        expected = "a YAML list of nodes such as {cpus: 16, gpus: 8, count: 2}, or a launch file of Ray or KubeRay"
        raise ConfigError(f"--cluster must be {expected}, but {path} is not") from None
    return [node for node, count in nodes for _ in range(count)]


def images(text: str) -> Iterator[str]:
    """Images must say, in their tag, that the Ray inside is ours."""
    for image in sorted(set(re.findall(r"image: *[\"']?([^\s\"'#]+)", text))):
        tag = image.rpartition(":")[2] if ":" in image.rpartition("/")[2] else "none"
        if not re.search(rf"\bray{re.escape(RAY)}\.\d+\b", tag):
            yield f"an image's tag must name the Ray that this code is for, ray{RAY}.x, but {image} has {tag}"


def storage_problems(cluster: ClusterFile, config: Config) -> Iterator[str]:
    """A run's storage must be seen by every node, and be writable from here."""
    storage = config.run.storage
    machines = len(cluster.nodes)
    if storage is None and machines > 1:
        yield (
            f"run.storage must be a bucket's URI or a folder that all {machines} nodes share, but is not set: "
            "each node's own disk would be used"
        )
    elif storage is not None and "://" in storage:
        from paramcrop.storage.mirror import check_writable

        try:
            check_writable(storage)
        except DataError as error:
            yield str(error)


def gpu_problems(cluster: ClusterFile, config: Config) -> Iterator[str]:
    """All GPUs must be able to share a batch, and workers must find one each."""
    gpus, t = int(sum(node.gpus for node in cluster.nodes)), config.train
    if gpus and t.device != "cpu":
        if t.workers > gpus:
            yield f"train.workers={t.workers} must be at most the {gpus} GPUs"
        if t.global_batch % gpus:
            yield f"train.global_batch must be a multiple of the GPUs, {gpus}, but is {t.global_batch}"


def check_cluster(path: str, config: Config) -> ClusterFile:
    """The file, all its problems noted: of its kind, of Ray's own validation, of images and of storage."""
    cluster = read_cluster(path)
    problems = [*cluster.problems, *storage_problems(cluster, config), *gpu_problems(cluster, config)]
    if cluster.kind == "vm":
        from ray_jobs.engine.ray_private import ray_problems

        problems += ray_problems(cluster.documents[0])
    return cluster._replace(problems=problems)


def tell_cluster(path: str, cluster: ClusterFile) -> str:
    """What it brings, what is wrong with it, what is still open."""
    counts = Counter(f"{node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in cluster.nodes)
    lines = [f"cluster: {path}, at most " + "; ".join(f"{n} x ({kind})" for kind, n in counts.items())]
    lines += [f"  to be mended: {problem}" for problem in cluster.problems]
    if cluster.open:
        lines.append(f"  to be filled in before it is launched: {', '.join(cluster.open)}")
    return "\n".join(lines)


def refuse(path: str, cluster: ClusterFile) -> None:
    """Raises:
    ConfigError: something is to be mended; ``tell_cluster`` has said what.
    """
    if cluster.problems:
        n = len(cluster.problems)
        raise ConfigError(f"{path} must be mended before it costs anything: {n} problem{'s' * (n > 1)}, see above")
