"""Ray's own launch files for cloud machines: their nodes, and problems that Ray does not check. Imports no Ray.

Ray's schema accepts anything in node_config, and its defaults open the dashboard to the world. So this module checks
what costs money or opens a port.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from paramcrop.errors import ConfigError
from ray_jobs.engine.plans.plan import Node

LOOPBACK = "--dashboard-host=127.0.0.1"
OPEN_PORT = re.compile(r"--(ray-client-server-port|dashboard-host=(?!127\.0\.0\.1))")


def vm_nodes(values: dict[str, Any], path: str) -> list[Node]:
    """The largest cluster: the head, and ``max_workers`` of each type within the cluster's ``max_workers``.

    Raises:
        ConfigError: a type does not state its resources.
    """
    head, room, nodes = values.get("head_node_type"), int(values.get("max_workers", 0)), list[Node]()
    for name, kind in _types(values).items():
        resources = kind.get("resources") or {}
        if "CPU" not in resources:
            raise ConfigError(f"{path}: available_node_types.{name} must have resources, such as {{CPU: 64}}")
        count = 1 if name == head else min(room, int(kind.get("max_workers", 0)))
        room -= 0 if name == head else count
        nodes += [Node(float(resources["CPU"]), float(resources.get("GPU", 0)))] * count
    return nodes


def vm_problems(values: dict[str, Any]) -> Iterator[str]:
    """The problems, one line each."""
    yield from _commands(values)
    yield from _workers(values)
    yield from {"aws": _aws, "gcp": _gcp}.get(values["provider"].get("type", ""), _unknown)(values)
    if not values.get("idle_timeout_minutes"):
        yield "idle_timeout_minutes must be set: an idle worker costs as much as a busy one"
    if not any(str(mount).endswith(".ray/auth_token") for mount in values.get("file_mounts") or {}):
        yield "file_mounts must contain ~/.ray/auth_token: every node needs the same token"


def _types(values: dict[str, Any]) -> dict[str, Any]:
    return {name: kind or {} for name, kind in (values.get("available_node_types") or {}).items()}


def _commands(values: dict[str, Any]) -> Iterator[str]:
    head = [c for c in values.get("head_start_ray_commands") or [] if "ray start" in c]
    workers = [c for c in values.get("worker_start_ray_commands") or [] if "ray start" in c]
    if not head or any(LOOPBACK not in command for command in head):
        yield (
            f"head_start_ray_commands must have {LOOPBACK}: Ray's default opens the dashboard and the job server to "
            "the world"
        )
    for command in (*head, *workers):
        if found := OPEN_PORT.search(command):
            yield f"start commands must not open a port, but one has {found[0]}"
        if "RAY_AUTH_MODE=token" not in command:
            yield f"every start command must have RAY_AUTH_MODE=token, but this one does not: {command.strip()[:60]}"
    text = " ".join(map(str, (*head, *workers, *(values.get("setup_commands") or []))))
    if found := re.search(r"(AWS_SECRET_ACCESS_KEY|RAY_AUTH_TOKEN|PASSWORD)=\S+", text):
        yield f"a secret must come from a file or the machine's role, but a command has {found[1]}"


def _workers(values: dict[str, Any]) -> Iterator[str]:
    workers = {name: kind for name, kind in _types(values).items() if name != values.get("head_node_type")}
    least, most = sum(int(k.get("min_workers", 0)) for k in workers.values()), int(values.get("max_workers", 0))
    if least > most:
        yield f"the sum of min_workers must be at most max_workers, {most}, but is {least}"
    for name, kind in workers.items():
        if "max_workers" not in kind:
            yield f"available_node_types.{name} must have max_workers: nothing else limits its cost"


def _aws(values: dict[str, Any]) -> Iterator[str]:
    for name, kind in _types(values).items():
        node, where = kind.get("node_config") or {}, f"available_node_types.{name}.node_config"
        if "InstanceType" not in node:
            yield f"{where} must have InstanceType"
        if (node.get("MetadataOptions") or {}).get("HttpTokens") != "required":
            yield f"{where} must have MetadataOptions: {{HttpTokens: required}} (IMDSv2)"
        if "IamInstanceProfile" not in node:
            yield f"{where} must have an IamInstanceProfile, so that no keys are stored on machines"
        yield from _spot(values, name, (node.get("InstanceMarketOptions") or {}).get("MarketType") == "spot")
    rules = (values["provider"].get("security_group") or {}).get("IpPermissions")
    if rules is None:
        yield "provider.security_group must be given: by default, Ray opens SSH to all addresses"
    for rule in rules or []:
        yield from _rule(rule)


def _rule(rule: dict[str, Any]) -> Iterator[str]:
    where, first, last = "provider.security_group must open", rule.get("FromPort"), rule.get("ToPort")
    if (first, last) != (22, 22):
        yield f"{where} only SSH's port 22, but opens {first} to {last}"
    for one in [*rule.get("IpRanges", []), *rule.get("Ipv6Ranges", [])]:
        cidr = str(one.get("CidrIp") or one.get("CidrIpv6"))
        if not _narrow(cidr):
            yield f"{where} ports only to your own network, but {first} is open to {cidr}"


def _gcp(values: dict[str, Any]) -> Iterator[str]:
    for name, kind in _types(values).items():
        node = kind.get("node_config") or {}
        if "machineType" not in node:
            yield f"available_node_types.{name}.node_config must have machineType"
        accounts = node.get("serviceAccounts") or []
        scopes = {scope.rpartition("/")[2] for account in accounts for scope in account.get("scopes", [])}
        if not accounts:
            yield (
                f"available_node_types.{name}.node_config must have serviceAccounts, so that no keys are stored on "
                "machines"
            )
        if "cloud-platform" in scopes:
            yield f"available_node_types.{name} must have narrow scopes, but cloud-platform allows everything"
        if not node.get("tags"):
            yield f"available_node_types.{name}.node_config must have tags, which the firewall rule for SSH needs"
        scheduling = node.get("scheduling") or {}
        options = scheduling if isinstance(scheduling, dict) else {k: v for one in scheduling for k, v in one.items()}
        yield from _spot(values, name, options.get("provisioningModel") == "SPOT" or bool(options.get("preemptible")))


def _spot(values: dict[str, Any], name: str, spot: bool) -> Iterator[str]:
    head = name == values.get("head_node_type")
    if head and spot:
        yield f"the head, {name}, must not be a spot machine: without it, the cluster is lost"
    if not head and spot and not any("spot_watch" in c for c in values.get("worker_start_ray_commands") or []):
        yield f"worker_start_ray_commands must start cluster/spot_watch.py, because {name} is a spot machine"


def _unknown(values: dict[str, Any]) -> Iterator[str]:
    yield f"provider.type must be aws or gcp for this check, but is {values['provider'].get('type')!r}"


def _narrow(cidr: str) -> bool:
    try:
        return ipaddress.ip_network(cidr, strict=False).prefixlen >= 8
    except ValueError:
        return False
