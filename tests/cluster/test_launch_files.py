"""Every shipped launch file passes its checks, and each check finds a planted fault."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from paramcrop.errors import ConfigError
from paramcrop.settings.presets import load_config
from ray_jobs.engine.plans.plan import Node
from ray_jobs.engine.ray_private import ray_problems
from ray_jobs.launch_files.check import RAY, check_cluster, describe_cluster, read_cluster
from ray_jobs.launch_files.kube import kube_problems
from ray_jobs.launch_files.vm import vm_problems

ROOT = Path(__file__).resolve().parents[2]
VM = [ROOT / "cluster" / f"{name}.yaml" for name in ("aws", "gcp")]
KUBE = sorted((ROOT / "cluster" / "kuberay").glob("*.yaml"))
Edit = Callable[[Any], object]


@pytest.mark.parametrize("path", [*VM, *KUBE], ids=lambda p: p.stem)
def test_a_shipped_file_has_no_problem_and_lists_its_placeholders(path: Path, tmp_path: Path) -> None:
    config = load_config("k400_simclr_s3dg", None, ["train.workers=8", f"run.storage={tmp_path.as_uri()}"])
    cluster = check_cluster(str(path), config)
    assert cluster.problems == []
    assert "REPLACE-REGISTRY" in cluster.open and "to be filled in" in describe_cluster(str(path), cluster)
    assert sum(node.gpus for node in cluster.nodes) >= 8 and cluster.nodes[0] == Node(0.0)


def edited(path: Path, edit: Edit) -> Any:
    values = yaml.safe_load(path.read_text())
    edit(values)
    return values


def each(edit: Edit) -> Edit:
    """Of every kind of node of a cloud's file."""
    return lambda v: [edit(kind["node_config"]) for kind in v["available_node_types"].values()]


AWS_FAULTS: list[tuple[Edit, str]] = [
    (
        lambda v: v.update(head_start_ray_commands=["RAY_AUTH_MODE=token ray start --head"]),
        "must have --dashboard-host=127.0.0.1",
    ),
    (
        lambda v: v.update(head_start_ray_commands=["RAY_AUTH_MODE=token ray start --head --dashboard-host=0.0.0.0"]),
        "must have --dashboard-host=127.0.0.1",
    ),
    (
        lambda v: v["head_start_ray_commands"].append(
            "RAY_AUTH_MODE=token ray start --head --dashboard-host=127.0.0.1 --ray-client-server-port=10001"
        ),
        "must not open a port",
    ),
    (lambda v: v.update(worker_start_ray_commands=["ray start --address=$RAY_HEAD_IP:6379"]), "RAY_AUTH_MODE=token"),
    (lambda v: v["setup_commands"].append("export AWS_SECRET_ACCESS_KEY=abc"), "a secret must come from a file"),
    (lambda v: v.pop("file_mounts"), "file_mounts must contain ~/.ray/auth_token"),
    (lambda v: v.pop("idle_timeout_minutes"), "idle_timeout_minutes must be set"),
    (lambda v: v["available_node_types"]["gpu"].update(min_workers=13), "the sum of min_workers must be at most"),
    (lambda v: v["available_node_types"]["gpu"].pop("max_workers"), "gpu must have max_workers"),
    (each(lambda n: n.pop("InstanceType")), "must have InstanceType"),
    (each(lambda n: n["MetadataOptions"].update(HttpTokens="optional")), "IMDSv2"),
    (each(lambda n: n.pop("IamInstanceProfile")), "must have an IamInstanceProfile"),
    (
        each(lambda n: n.update(InstanceMarketOptions={"MarketType": "spot"})),
        "the head, head, must not be a spot machine",
    ),
    (lambda v: v["worker_start_ray_commands"].pop(), "must start cluster/spot_watch.py"),
    (lambda v: v["provider"].pop("security_group"), "security_group must be given"),
    (
        lambda v: v["provider"]["security_group"]["IpPermissions"][0].update(IpRanges=[{"CidrIp": "0.0.0.0/0"}]),
        "22 is open to 0.0.0.0/0",
    ),
    (
        lambda v: v["provider"]["security_group"]["IpPermissions"][0].update(IpRanges=[{"CidrIpv6": "::/0"}]),
        "22 is open to ::/0",
    ),
    (
        lambda v: v["provider"]["security_group"]["IpPermissions"][0].update(FromPort=8265, ToPort=8265),
        "only SSH's port 22, but opens 8265 to 8265",
    ),
    (lambda v: v["provider"].update(type="azure"), "must be aws or gcp for this check"),
]
GCP_FAULTS: list[tuple[Edit, str]] = [
    (each(lambda n: n.pop("machineType")), "must have machineType"),
    (each(lambda n: n.pop("serviceAccounts")), "must have serviceAccounts"),
    (
        each(lambda n: n["serviceAccounts"][0].update(scopes=["https://www.googleapis.com/auth/cloud-platform"])),
        "must have narrow scopes",
    ),
    (each(lambda n: n.pop("tags")), "must have tags"),
    (each(lambda n: n.update(scheduling=[{"preemptible": True}])), "the head, head, must not be a spot machine"),
]


@pytest.mark.parametrize(("edit", "message"), AWS_FAULTS)
def test_a_fault_planted_in_aws_is_found(edit: Edit, message: str) -> None:
    problems = list(vm_problems(edited(VM[0], edit)))
    assert any(message in problem for problem in problems), problems
    assert all("\n" not in problem for problem in problems)


@pytest.mark.parametrize(("edit", "message"), GCP_FAULTS)
def test_a_fault_planted_in_gcp_is_found(edit: Edit, message: str) -> None:
    problems = list(vm_problems(edited(VM[1], edit)))
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v.update(max_worker=3), "max_worker"),
        (lambda v: v["available_node_types"]["gpu"].update(max_workers="many"), "many"),
        (lambda v: v.update(head_node_type="absent"), "head_node_type"),
    ],
)
def test_rays_own_validation_is_one_line(edit: Edit, message: str) -> None:
    (problem,) = ray_problems(edited(VM[0], edit))
    assert problem.startswith("`ray up` rejects the file: ") and message in problem and "\n" not in problem


def groups(edit: Edit) -> Edit:
    return lambda v: [edit(group) for group in v["spec"]["rayClusterSpec"]["workerGroupSpecs"]]


def cluster(edit: Edit) -> Edit:
    return lambda v: edit(v["spec"]["rayClusterSpec"])


def containers(edit: Edit) -> Edit:
    return groups(lambda g: edit(g["template"]["spec"]["containers"][0]))


KUBE_FAULTS: list[tuple[Edit, str]] = [
    (cluster(lambda c: c.pop("authOptions")), "authOptions.mode must be token"),
    (cluster(lambda c: c["authOptions"].update(mode="disabled")), "authOptions.mode must be token"),
    (cluster(lambda c: c.pop("networkPolicy")), "networkPolicy.mode must be"),
    (cluster(lambda c: c["headGroupSpec"].update(serviceType="LoadBalancer")), "serviceType must be ClusterIP"),
    (cluster(lambda c: c.pop("autoscalerOptions")), "idleTimeoutSeconds must be set"),
    (groups(lambda g: g.update(replicas=9)), "minReplicas <= replicas <= maxReplicas"),
    (
        groups(lambda g: g["template"]["spec"].pop("terminationGracePeriodSeconds")),
        "terminationGracePeriodSeconds must be at least 150, 30 more",
    ),
    (containers(lambda c: c.update(env=[])), "must be at least 60, the time of a checkpoint, but is 30"),
    (
        containers(lambda c: c["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "x"})),
        "AWS_SECRET_ACCESS_KEY must come from a secret",
    ),
    (lambda v: v["spec"].update(shutdownAfterJobFinishes=False), "shutdownAfterJobFinishes must be true"),
]


@pytest.mark.parametrize(("edit", "message"), KUBE_FAULTS)
def test_a_fault_planted_in_a_manifest_is_found(edit: Edit, message: str) -> None:
    problems = list(kube_problems([edited(ROOT / "cluster" / "kuberay" / "rayjob.yaml", edit)]))
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            groups(lambda g: g.update(minReplica=1)),
            "workerGroupSpecs.0.minReplica is not a key; the nearest is minReplicas",
        ),
        (lambda v: v["spec"].update(submissionMode="Job"), r"submissionMode must be one of K8sJobMode \| HTTPMode"),
        (
            lambda v: v.update(apiVersion="ray.io/v1alpha1"),
            "apiVersion must be ray.io/v1, but is 'ray.io/v1alpha1'",
        ),
        (groups(lambda g: g.pop("maxReplicas")), "maxReplicas must be given"),
    ],
)
def test_an_invalid_manifest_is_one_line(edit: Edit, message: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(edited(ROOT / "cluster" / "kuberay" / "rayjob.yaml", edit)))
    with pytest.raises(ConfigError, match=message):
        read_cluster(str(file))


def test_images_storage_and_batch_are_checked(tmp_path: Path) -> None:
    text = VM[0].read_text()
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace(f"ray{RAY}.0", "latest"))
    config = load_config("k400_simclr_s3dg", None, ["train.workers=8"])
    problems = check_cluster(str(file), config).problems
    assert any(f"must name this code's Ray version, ray{RAY}.x" in problem for problem in problems)
    assert any("run.storage must be the URI of a bucket or a folder that all 13 nodes share" in p for p in problems)
    away = load_config("k400_simclr_s3dg", None, ["run.storage=file:///proc/nowhere"])
    assert any("file:///proc/nowhere must exist and be writable" in p for p in check_cluster(str(file), away).problems)
    odd = load_config("k400_simclr_s3dg", None, ["train.workers=5", "train.global_batch=1000"])
    assert any("must be a multiple of the 32 GPUs" in problem for problem in check_cluster(str(file), odd).problems)
    many = load_config("k400_simclr_s3dg", None, ["train.workers=64"])
    assert any("train.workers=64 must be at most the 32 GPUs" in p for p in check_cluster(str(file), many).problems)


def test_a_plain_list_of_nodes_is_a_cluster_too(tmp_path: Path) -> None:
    file = tmp_path / "nodes.yaml"
    file.write_text("[{cpus: 96, gpus: 8, count: 2}, {cpus: 16}]")
    assert read_cluster(str(file)).nodes == [Node(96.0, 8.0), Node(96.0, 8.0), Node(16.0)]
    for text, message in (("cpus: 3", "a YAML list of nodes"), ("[{cpu: 3}]", "a YAML list"), ("a: [", "be YAML")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_cluster(str(file))


def test_the_image_has_the_tests_ray_and_versions_that_the_package_takes() -> None:
    text = (ROOT / "cluster" / "Dockerfile").read_text()
    pinned = dict(re.findall(r'"?([a-z]+)(?:\[[a-z,]+\])?==([\d.]+)', text))
    assert set(pinned) >= {"torch", "torchvision", "ray", "decord", "av", "pyarrow", "optuna"}
    assert pinned["ray"] == metadata.version("ray") and pinned["ray"].startswith(f"{RAY}.")
    project = (ROOT / "pyproject.toml").read_text()
    assert f"ray[default,data,train,tune]>={RAY},<2.61" in project
    limits = dict(re.findall(r'^    "([a-z]+)(?:\[[a-z,]+\])?([<>=][^";]+)', project, re.M))
    assert set(limits) >= {"torch", "ray", "av", "numpy", "pydantic"}
    assert [n for n, version in pinned.items() if version not in SpecifierSet(limits.get(n, ""))] == []
    for path in (*VM, *KUBE):
        assert f"paramcrop:ray{pinned['ray']}" in path.read_text()


@pytest.mark.parametrize(
    ("path", "faults"),
    [(VM[0], AWS_FAULTS), (VM[1], GCP_FAULTS), (ROOT / "cluster" / "kuberay" / "rayjob.yaml", KUBE_FAULTS)],
    ids=["aws", "gcp", "rayjob"],
)
def test_the_faults_are_faults_of_a_copy(path: Path, faults: list[tuple[Edit, str]]) -> None:
    """Each changes something, and none is still there when the next is planted."""
    text, shipped = path.read_text(), edited(path, lambda values: None)
    for edit, message in faults:
        assert edited(path, edit) != shipped, message
        assert edited(path, lambda values: None) == shipped, message
    assert path.read_text() == text
