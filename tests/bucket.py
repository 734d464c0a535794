"""An S3 server on loopback, for the duration of a test."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.fs

NAME = "s3://paramcrop-test"


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Yield the environment in which `s3://paramcrop-test` is a bucket on the server."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(s.getsockname()[1])
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    keys |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_EC2_METADATA_DISABLED": "true"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    before = {name: os.environ.get(name) for name in keys}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | keys
    ) as server:
        try:
            wait_for(port, server)
            os.environ |= keys
            fs, name = pyarrow.fs.FileSystem.from_uri(f"{NAME}?allow_bucket_creation=true")
            fs.create_dir(name)
            yield keys
        finally:
            server.kill()
            for key, value in before.items():
                os.environ.pop(key) if value is None else os.environ.update({key: value})


def wait_for(port: int, server: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the S3 server does not listen on port {port}; its exit status is {server.poll()}")
