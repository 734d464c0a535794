"""KubeRay manifests (ray.io/v1): strict models of the fields that ours use, their nodes, and their problems."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from paramcrop.settings.explain import validated
from ray_jobs.engine.plans.plan import Node

STRICT = ConfigDict(extra="forbid", populate_by_name=True)
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"  # how long Ray waits for tasks and checkpoints after SIGTERM
GRACE = 30  # seconds between the end of that wait and the end of the pod


class Resources(BaseModel):
    model_config = STRICT
    limits: dict[str, str | int] = {}
    requests: dict[str, str | int] = {}


class Variable(BaseModel):
    model_config = STRICT
    name: str
    value: str | None = None
    valueFrom: dict[str, Any] | None = None


class Container(BaseModel):
    model_config = STRICT
    name: str
    image: str
    env: list[Variable] = []
    envFrom: list[dict[str, Any]] = []
    resources: Resources = Resources()
    volumeMounts: list[dict[str, Any]] = []


class PodSpec(BaseModel):
    model_config = STRICT
    containers: list[Container] = Field(min_length=1)
    serviceAccountName: str | None = None
    terminationGracePeriodSeconds: int | None = None
    tolerations: list[dict[str, Any]] = []
    nodeSelector: dict[str, str] = {}
    volumes: list[dict[str, Any]] = []


class Template(BaseModel):
    model_config = STRICT
    spec: PodSpec
    metadata: dict[str, Any] = {}


class HeadGroup(BaseModel):
    model_config = STRICT
    rayStartParams: dict[str, str] = {}
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    template: Template


class WorkerGroup(BaseModel):
    model_config = STRICT
    groupName: str
    replicas: int = 0
    minReplicas: int = 0
    maxReplicas: int
    rayStartParams: dict[str, str] = {}
    template: Template


class AuthOptions(BaseModel):
    model_config = STRICT
    mode: Literal["token", "disabled"]
    secretName: str | None = None


class NetworkPolicy(BaseModel):
    model_config = STRICT
    mode: Literal["DenyAll", "DenyAllIngress", "DenyAllEgress"]


class AutoscalerOptions(BaseModel):
    model_config = STRICT
    idleTimeoutSeconds: int | None = None
    version: Literal["v1", "v2"] | None = None


class ClusterSpec(BaseModel):
    model_config = STRICT
    rayVersion: str
    enableInTreeAutoscaling: bool = False
    autoscalerOptions: AutoscalerOptions | None = None
    authOptions: AuthOptions | None = None
    networkPolicy: NetworkPolicy | None = None
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup] = []


class JobSpec(BaseModel):
    model_config = STRICT
    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] = "K8sJobMode"
    runtimeEnvYAML: str | None = None
    shutdownAfterJobFinishes: bool = False
    ttlSecondsAfterFinished: int | None = None
    activeDeadlineSeconds: int | None = None
    backoffLimit: int = 0
    rayClusterSpec: ClusterSpec


class Manifest(BaseModel):
    model_config = STRICT
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster", "RayJob"]
    metadata: dict[str, Any]
    spec: dict[str, Any]


def parse(document: Any, path: str) -> tuple[ClusterSpec, JobSpec | None]:
    """The cluster of a manifest, and its job if it is a RayJob.

    Raises:
        ConfigError: one line with the field.
    """
    manifest = validated(Manifest, document, path)
    if manifest.kind == "RayCluster":
        return validated(ClusterSpec, manifest.spec, path), None
    job = validated(JobSpec, manifest.spec, path)
    return job.rayClusterSpec, job


def kube_nodes(documents: list[Any], path: str) -> list[Node]:
    """The largest cluster: every head, and ``maxReplicas`` of every group."""
    nodes = list[Node]()
    for document in documents:
        cluster, _ = parse(document, path)
        head = cluster.headGroupSpec
        nodes.append(_node(head.template, head.rayStartParams.get("num-cpus")))
        nodes += [_node(group.template) for group in cluster.workerGroupSpecs for _ in range(group.maxReplicas)]
    return nodes


def kube_problems(documents: list[Any]) -> Iterator[str]:
    """The problems, one line each."""
    for document in documents:
        cluster, job = parse(document, "the manifest")
        if cluster.authOptions is None or cluster.authOptions.mode != "token":
            yield "authOptions.mode must be token: anyone who reaches the job API can run code"
        if cluster.networkPolicy is None or cluster.networkPolicy.mode == "DenyAllEgress":
            yield "networkPolicy.mode must be DenyAllIngress or DenyAll: nothing outside needs to reach a pod"
        if cluster.headGroupSpec.serviceType != "ClusterIP":
            yield f"headGroupSpec.serviceType must be ClusterIP, but {cluster.headGroupSpec.serviceType} opens ports"
        idle = cluster.autoscalerOptions and cluster.autoscalerOptions.idleTimeoutSeconds
        if cluster.enableInTreeAutoscaling and not idle:
            yield "autoscalerOptions.idleTimeoutSeconds must be set: an idle pod costs as much as a busy one"
        for group in cluster.workerGroupSpecs:
            yield from _group(group)
        yield from _secrets(cluster)
        if job is not None and not job.shutdownAfterJobFinishes:
            yield "shutdownAfterJobFinishes must be true: otherwise the cluster keeps costing after the job"


def _group(group: WorkerGroup) -> Iterator[str]:
    spec, name = group.template.spec, f"group {group.groupName}"
    if not group.minReplicas <= group.replicas <= group.maxReplicas:
        yield f"{name}: minReplicas <= replicas <= maxReplicas must hold"
    variables = {v.name: v.value for c in spec.containers for v in c.env}
    drain = variables.get(DRAIN)
    wait, grace = float(drain or 30), spec.terminationGracePeriodSeconds or 30
    if wait < 60:
        yield f"{name}: {DRAIN} must be at least 60, the time of a checkpoint, but is {wait:g}"
    if grace < wait + GRACE:
        least = f"at least {wait + GRACE:g}, {GRACE} more than {DRAIN}"
        yield f"{name}: terminationGracePeriodSeconds must be {least}, but is {grace}"


def _secrets(cluster: ClusterSpec) -> Iterator[str]:
    templates = [cluster.headGroupSpec.template, *(group.template for group in cluster.workerGroupSpecs)]
    for variable in (v for t in templates for c in t.spec.containers for v in c.env):
        if variable.value is not None and re.search(r"(SECRET|TOKEN|PASSWORD|ACCESS_KEY)", variable.name):
            yield f"{variable.name} must come from a secret (valueFrom), but the manifest contains its value"


def _node(template: Template, cpus: str | None = None) -> Node:
    limits = template.spec.containers[0].resources.limits
    return Node(float(cpus or str(limits.get("cpu", 1))), float(str(limits.get("nvidia.com/gpu", 0))))
