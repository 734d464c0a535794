"""The clouds' preemption notices, from a fake metadata server that answers as theirs do."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[2] / "cluster" / "spot_watch.py"
spec = importlib.util.spec_from_file_location("spot_watch", FILE)
assert spec is not None and spec.loader is not None
spot_watch: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(spot_watch)


class Metadata(BaseHTTPRequestHandler):
    """IMDSv2 answers only with a token that was requested by PUT; Google's server only with its header."""

    notice: str | None = None
    preempted = "FALSE"

    def do_PUT(self) -> None:
        valid = self.path == "/latest/api/token" and self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
        self.answer("secret" if valid else None)

    def do_GET(self) -> None:
        if self.path == "/latest/meta-data/spot/instance-action":
            allowed = self.headers.get("X-aws-ec2-metadata-token") == "secret"
            self.answer(self.notice if allowed else None, 404 if allowed else 401)
        elif self.path == "/computeMetadata/v1/instance/preempted":
            self.answer(self.preempted if self.headers.get("Metadata-Flavor") == "Google" else None, 403)
        else:
            self.answer(None)

    def answer(self, text: str | None, otherwise: int = 404) -> None:
        self.send_response(otherwise if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def server() -> Iterator[str]:
    Metadata.notice, Metadata.preempted = None, "FALSE"
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def test_aws_gives_the_time_of_the_preemption(server: str) -> None:
    assert spot_watch.aws_deadline(server) is None
    Metadata.notice = '{"action": "terminate", "time": "2026-11-24T08:22:00Z"}'
    assert spot_watch.aws_deadline(server) == 1795508520
    assert spot_watch.aws_deadline("http://127.0.0.1:1") is None  # nobody answers


def test_google_announces_the_preemption_alone(server: str) -> None:
    assert spot_watch.gcp_deadline(server) is None
    Metadata.preempted = "TRUE"
    assert abs(spot_watch.gcp_deadline(server) - time.time() - 30) < 5


def test_it_polls_until_the_notice_comes_and_is_accepted(server: str) -> None:
    notified, polls = list[float](), list[int]()

    def deadline_of() -> float | None:
        polls.append(1)
        if len(polls) == 3:
            Metadata.preempted = "TRUE"
        found: float | None = spot_watch.gcp_deadline(server)
        return found

    def notify(deadline: float) -> bool:
        notified.append(deadline)
        return len(notified) == 2  # the first time, Ray does not answer

    spot_watch.watch(deadline_of, notify, poll=0.01)
    assert len(polls) == 4 and len(notified) == 2
