"""A Ray cluster of a head without CPUs and of workers, each with a home of its own that the others cannot see."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.ray_jobs.commands import ROOT
from tests.ray_jobs.conftest import free_port, wait_for

MEMORY = 200 * 2**20
PRIVATE = ("unshare", "--mount", "--map-root-user") if os.geteuid() else ("unshare", "--mount")


def can_hide() -> bool:
    """Whether this machine allows a process a file tree of its own."""
    if shutil.which("unshare") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        line = [*PRIVATE, "mount", "-t", "tmpfs", "tmpfs", folder]
        return subprocess.run(line, capture_output=True, check=False).returncode == 0


@dataclass
class Machines:
    """Attributes:
    address: of the cluster. env: of the driver. home: the driver's home, hidden from the workers where that is allowed.
    shared: a folder that all see. nodes: the processes of the workers.
    """

    address: str
    env: dict[str, str]
    folder: Path
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "driver"

    @property
    def shared(self) -> Path:
        return self.folder / "shared"

    def add(self, cpus: int = 2) -> subprocess.Popen[bytes]:
        """Start a worker and wait until the cluster has it."""
        home, before = self.folder / f"worker{len(self.nodes)}", self.alive()
        home.mkdir()
        env = self.env | {"HOME": str(home), "PARAMCROP_HOME": str(home), "TMPDIR": str(home)}
        start = ["ray", "start", f"--address={self.address}", "--block", f"--num-cpus={cpus}"]
        start += [f"--object-store-memory={MEMORY}", f"--dashboard-agent-listen-port={free_port()}"]
        if can_hide():
            hidden = f"mount -t tmpfs tmpfs {shlex.quote(str(self.home))} && exec {shlex.join(start)}"
            start = [*PRIVATE, "sh", "-c", hidden]
        node = self._start(start, env, f"worker{len(self.nodes)}")
        self.nodes.append(node)
        end = time.monotonic() + 120
        while self.alive() <= before:
            assert time.monotonic() < end and node.poll() is None, "the node did not join"
            time.sleep(0.5)
        return node

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """Kill a worker and everything that runs on it."""
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait(30)

    def alive(self) -> int:
        """The number of live nodes."""
        line = "import ray; from ray._raylet import GcsClient; "
        line += f"print(sum(n.state == 0 for n in GcsClient(address='{self.address}').get_all_node_info().values()))"
        done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, env=self.env, check=True)
        return int(done.stdout.split()[-1])

    def _start(self, command: list[str], env: dict[str, str], name: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{name}.log").open("w")
        return subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


@contextmanager
def machines(workers: int = 1, env: Mapping[str, str] = {}) -> Iterator[Machines]:
    """Start the head and the workers; end them at the end.

    Args:
        env: of all processes, such as the keys of a bucket.
    """
    folder = Path(tempfile.mkdtemp(prefix="pc"))  # short, because the paths of Ray's sockets below it are limited
    port = free_port()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | dict(env)
    kept |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    kept |= {"RAY_worker_niceness": "0"}  # by default Ray's processes give way to whatever else the machine does
    kept |= {
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    found = Machines(f"127.0.0.1:{port}", kept, folder)
    for name in (found.home, found.shared):
        name.mkdir()
    start = ["ray", "start", "--head", "--block", "--num-cpus=0", "--node-ip-address=127.0.0.1", f"--port={port}"]
    start += [f"--temp-dir={folder}/ray", f"--object-store-memory={MEMORY}", f"--dashboard-port={free_port()}"]
    start += [f"--dashboard-agent-listen-port={free_port()}"]
    head = found._start(start, kept, "head")
    try:
        wait_for(port, head)
        while not found.alive():
            time.sleep(0.5)
        for _ in range(workers):
            found.add()
        yield found
    finally:
        for process in (*found.nodes, head):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in (*found.nodes, head):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
