"""A stub of the Hub on this machine: one repository that is created, committed to and downloaded from."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHA = "5e" * 20  # of the only commit


@dataclass
class Repository:
    """What the client has sent: the files by name, and whether the repository is private."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    created: dict[str, Any] = field(default_factory=dict)


@contextmanager
def serve() -> Iterator[Repository]:
    """A server on a free port; it stops at the end."""
    repository = Repository()

    class Bound(Handler):
        hub = repository

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    repository.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield repository
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Repository

    def do_GET(self) -> None:
        if "/resolve/" in self.path:
            return self._file(self.path.rpartition("/")[2])
        if not self.hub.files:
            return self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        if "/tree/" in self.path:
            return self._answer(
                [{"type": "file", "path": n, "size": len(c), "oid": SHA} for n, c in self.hub.files.items()]
            )
        self._answer({"id": "o/n", "sha": SHA, "siblings": [{"rfilename": name} for name in self.hub.files]})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/api/repos/create":
            self.hub.created = json.loads(body)
            self._answer({"url": f"{self.hub.url}/o/n"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            paths = [each["path"] for each in json.loads(body)["files"]]
            self._answer({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer({"success": True, "commitOid": SHA, "commitUrl": f"{self.hub.url}/o/n/commit/{SHA}"})
        else:
            print(self.path, file=sys.stderr)
            self._answer({"error": self.path}, 404)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _file(self, name: str) -> None:
        content = self.hub.files[name]
        tag = hashlib.sha1(content).hexdigest()
        self._send(content, 200, {"ETag": f'"{tag}"', "X-Repo-Commit": SHA, "Content-Type": "application/octet-stream"})

    def _answer(self, value: Any, code: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), code, {"Content-Type": "application/json"} | (headers or {}))

    def _send(self, content: bytes, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
