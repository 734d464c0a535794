from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Head:
    """A Ray head on loopback with a token, started from the clone's folder; its users need the environment ``env``.

    Attributes:
        address: for jobs. gcs: for drivers, as RAY_ADDRESS.
    """

    address: str
    gcs: str
    env: dict[str, str]
    home: Path

    def submit(self, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """`ray job submit [options] -- command`, run in the clone's folder."""
        ray = Path(sys.executable).parent / "ray"
        line = [str(ray), "job", "submit", "--address", self.address, *options, "--", *command]
        return subprocess.run(line, capture_output=True, text=True, env=self.env, cwd=ROOT, timeout=300, check=False)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="pc"))  # short, because the paths of Ray's sockets below it are limited
    home = folder / "home"
    home.mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "HOME": str(home),
        "PARAMCROP_HOME": str(home / "paramcrop"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-that-only-this-test-knows-0123456789",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    port, dashboard = free_port(), free_port()
    start = ["ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=2", f"--temp-dir={folder}/ray"]
    start += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--object-store-memory=500000000"]
    # The port of the job agent: the usual one may still be in use by a Ray that was just killed.
    start += [f"--dashboard-agent-listen-port={free_port()}"]
    log = (folder / "head.log").open("w")
    process = subprocess.Popen(start, env=env, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(dashboard, process)
        yield Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}", env, home)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise RuntimeError(f"the Ray head does not listen on port {port} after {seconds} s; exit code: {process.poll()}")
