"""On a spot machine: ask the cloud whether it will be taken away, and if so, have Ray drain this node.

    python cluster/spot_watch.py --cloud aws

Ray Train then tells the training's workers, which take a checkpoint at once and start again elsewhere; the restart
counts as a preemption, not as a failure. AWS gives two minutes' notice, Google half a minute. Started by aws.yaml and
gcp.yaml on every worker; on Kubernetes, Ray drains a pod that is told to end by itself.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

AWS, GCP = "http://169.254.169.254", "http://metadata.google.internal"
POLL = 5.0  # seconds between two questions
GCP_NOTICE = 30.0  # seconds; Google says that, not when


def ask(url: str, headers: dict[str, str], method: str = "GET") -> str | None:
    """What the metadata server answers; None: it has nothing of that name, or does not answer."""
    try:
        request = urllib.request.Request(url, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=2) as answer:
            text: str = answer.read().decode()
            return text
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None


def aws_deadline(server: str = AWS) -> float | None:
    """When this machine goes (seconds since 1970), by IMDSv2; None: it was not told."""
    token = ask(f"{server}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    if token is None:
        return None
    notice = ask(f"{server}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    if notice is None:
        return None
    told = json.loads(notice)["time"]
    return datetime.strptime(told, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()


def gcp_deadline(server: str = GCP) -> float | None:
    """When this machine goes, at the earliest; None: it was not told."""
    told = ask(f"{server}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return time.time() + GCP_NOTICE if told is not None and told.strip() == "TRUE" else None


CLOUDS: dict[str, tuple[Callable[[str], float | None], str]] = {"aws": (aws_deadline, AWS), "gcp": (gcp_deadline, GCP)}


def drain(address: str, node_id: str, deadline: float) -> bool:
    """Tell Ray that a node goes at ``deadline`` -> whether Ray took it."""
    raylet: Any = importlib.import_module("ray._raylet")
    generated: Any = importlib.import_module("ray.core.generated.autoscaler_pb2")
    reason = generated.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    client = raylet.GcsClient(address=address)
    taken, why = client.drain_node(node_id, reason, "the spot machine is taken away", round(1000 * deadline))
    if not taken:
        print(f"Ray does not drain {node_id}: {why}", file=sys.stderr)
    return bool(taken)


def this_node() -> tuple[str, str]:
    """Ray's address and this node's id in it, from the Ray that runs on this machine."""
    import ray

    ray.init(address="auto", log_to_driver=False)
    context = ray.get_runtime_context()
    found = context.gcs_address, context.get_node_id()
    ray.shutdown()
    return found


def watch(deadline_of: Callable[[], float | None], told: Callable[[float], bool], poll: float = POLL) -> None:
    """Ask until there is a deadline and someone has taken it."""
    while True:
        deadline = deadline_of()
        if deadline is not None and told(deadline):
            return
        time.sleep(poll)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cloud", choices=sorted(CLOUDS), required=True)
    parser.add_argument("--server", help="of metadata (default: the cloud's own)")
    arguments = parser.parse_args()
    deadline_of, server = CLOUDS[arguments.cloud]
    address, node_id = this_node()
    watch(lambda: deadline_of(arguments.server or server), lambda deadline: drain(address, node_id, deadline))
    print(f"draining {node_id}")


if __name__ == "__main__":
    main()
