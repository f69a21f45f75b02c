"""A stand-in for the Hub: answers what its client asks for a download, and fails as it is told to; and that client."""

import hashlib
import json
import re
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.repository import run

LARGE = ".safetensors"
"""What lies in large-file storage, where a file's ETag is its SHA-256 and not git's digest."""


@dataclass
class Hub:
    """One model at one commit, in the repositories of ``names``; any other is gone, which the Hub answers with 401.

    Attributes:
        breaks: Path → after how many bytes the connection is cut, once.
        wrong: Paths whose last byte is another one than the Hub says.
        seen: Method, path and Range of each request.
    """

    folder: Path
    commit: str
    names: tuple[str, ...]
    breaks: dict[str, int] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Serves until the block ends."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub._answer(self)

            def do_GET(self) -> None:
                hub._answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def paths(self) -> list[str]:
        """The model's files."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    def etag(self, name: str) -> str:
        """A file's digest, of the kind that the Hub gives."""
        content = (self.folder / name).read_bytes()
        if name.endswith(LARGE):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.path.partition("?")[0]
        self.seen.append((request.command, asked, request.headers.get("Range")))
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/(\w+)", asked)
        if match and match[1] in self.names and match[3] == self.commit:
            listed = [self._entry(name) for name in self.paths()]
            self._send_json(request, listed if match[2] == "tree" else {"id": match[1], "sha": self.commit})
            return
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", asked)
        if match and match[1] in self.names and match[2] == self.commit and match[3] in self.paths():
            self._send_file(request, match[3])
            return
        body = b'{"error":"Invalid username or password."}'
        request.send_response(401)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("X-Error-Message", "Invalid username or password.")
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)

    def _entry(self, name: str) -> dict[str, Any]:
        size = (self.folder / name).stat().st_size
        entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": self.etag(name)}
        if name.endswith(LARGE):
            entry |= {"oid": "0" * 40, "lfs": {"oid": self.etag(name), "size": size, "pointerSize": 134}}
        return entry

    def _send_json(self, request: BaseHTTPRequestHandler, value: object) -> None:
        body = json.dumps(value).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _send_file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        content = (self.folder / name).read_bytes()
        if name in self.wrong:
            content = content[:-1] + bytes([content[-1] ^ 1])
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range") or "")
        start = int(wanted[1]) if wanted else 0
        request.send_response(206 if wanted else 200)
        request.send_header("Content-Length", str(len(content) - start))
        if wanted:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("ETag", f'"{self.etag(name)}"')
        request.send_header("X-Repo-Commit", self.commit)
        request.send_header("Accept-Ranges", "bytes")
        request.end_headers()
        if request.command == "GET":
            end = self.breaks.pop(name, len(content)) if not start else len(content)
            request.wfile.write(content[start:end])
            if end < len(content):
                request.close_connection = True


def models(
    hub: Hub | None, tmp_path: Path, *arguments: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs ``scripts/models`` with a Hub, or none, and an empty cache of its client."""
    url = hub.url if hub else "http://127.0.0.1:9"
    environment |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
    return run("scripts/models", *arguments, **environment)
