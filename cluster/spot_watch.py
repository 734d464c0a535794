"""On a spot machine: poll the cloud for a preemption notice, and make Ray drain this node when one comes.

    python cluster/spot_watch.py --cloud aws

Ray Train then notifies the training workers, which save a checkpoint at once and restart elsewhere; the restart counts
as a preemption, not as a failure. AWS gives two minutes' notice, Google 30 seconds. aws.yaml and gcp.yaml start this
script on every worker. Kubernetes does not need it: there, Ray drains a pod that receives SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime, timezone

AWS, GCP = "http://169.254.169.254", "http://metadata.google.internal"
POLL = 5.0  # seconds between two polls
GCP_NOTICE = 30.0  # seconds; Google announces the preemption, but not its time


def ask(url: str, headers: dict[str, str], method: str = "GET") -> str | None:
    """The metadata server's answer, or None if it has no such entry or does not answer."""
    try:
        request = urllib.request.Request(url, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=2) as answer:
            text: str = answer.read().decode()
            return text
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None


def aws_deadline(server: str = AWS) -> float | None:
    """When this machine will be taken away (seconds since 1970), by IMDSv2; None without a notice."""
    token = ask(f"{server}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    if token is None:
        return None
    notice = ask(f"{server}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    if notice is None:
        return None
    when = json.loads(notice)["time"]
    return datetime.strptime(when, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()


def gcp_deadline(server: str = GCP) -> float | None:
    """The earliest time at which this machine will be taken away; None without a notice."""
    preempted = ask(f"{server}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return time.time() + GCP_NOTICE if preempted is not None and preempted.strip() == "TRUE" else None


CLOUDS: dict[str, tuple[Callable[[str], float | None], str]] = {"aws": (aws_deadline, AWS), "gcp": (gcp_deadline, GCP)}


def drain(address: str, node_id: str, deadline: float) -> bool:
    """Tell Ray that a node will be taken away at ``deadline``; return whether Ray accepts the drain."""
    from ray_jobs.engine.ray_private import drain_node

    refusal = drain_node(address, node_id, deadline, "the spot machine is being preempted")
    if refusal:
        print(f"Ray does not drain {node_id}: {refusal}", file=sys.stderr)
    return not refusal


def this_node() -> tuple[str, str]:
    """Ray's address and this node's id, from the Ray that runs on this machine."""
    import ray

    ray.init(address="auto", log_to_driver=False)
    context = ray.get_runtime_context()
    found = context.gcs_address, context.get_node_id()
    ray.shutdown()
    return found


def watch(deadline_of: Callable[[], float | None], notify: Callable[[float], bool], poll: float = POLL) -> None:
    """Poll until there is a deadline and ``notify`` accepts it."""
    while True:
        deadline = deadline_of()
        if deadline is not None and notify(deadline):
            return
        time.sleep(poll)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cloud", choices=sorted(CLOUDS), required=True)
    parser.add_argument("--server", help="metadata server (default: the cloud's own)")
    arguments = parser.parse_args()
    deadline_of, server = CLOUDS[arguments.cloud]
    address, node_id = this_node()
    watch(lambda: deadline_of(arguments.server or server), lambda deadline: drain(address, node_id, deadline))
    print(f"draining {node_id}")


if __name__ == "__main__":
    main()
