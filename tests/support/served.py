"""``bentoml serve``, as an operator runs it, and callers who send what no client library would."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.support.edge import HEALTH, INPAINT
from tests.support.pictures import hole, photo, written
from tests.support.processes import free_port, wait_for
from tests.support.repository import ROOT

START_SECONDS = 120.0
SERVER_BODY_BYTES = 3_000_000
"""Body limit of the shared server: low, so that going over it is quick."""

LARGE = (512, 512)
"""Width and height of a picture that takes a while."""

SERVE = (sys.executable, "-m", "bentoml", "serve", "service:SDInpaint")


class Served:
    """A service that somebody has started.

    Attributes:
        url: Without a slash at its end.
        port: On this machine.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.port = int(self.url.rpartition(":")[2])


class Server(Served):
    """``bentoml serve``, as an operator runs it."""

    def __init__(
        self,
        log: Path,
        *,
        address: str = "127.0.0.1",
        port: int | None = None,
        within: tuple[str, ...] = (),
        serve: tuple[str, ...] = SERVE,
        **settings: str,
    ) -> None:
        super().__init__(f"http://{address}:{port or free_port()}")
        self.log = log
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BENTOML_CONFIG")}
        own = {
            "LOAD_SD_INPAINT": "true",
            "SD_INPAINT_MODEL": "demo",
            # Their model is so small that two threads take as long as one, and more of the processor.
            "SD_INPAINT_THREADS": "1",
        }
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*within, *serve, "--host", address, "--port", str(self.port)],
                cwd=ROOT,
                env={**environment, **own, **settings},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, path: str = HEALTH, status: int = 200) -> httpx.Response:
        """Waits until ``path`` is answered with ``status``."""
        return wait_for(
            self.url + path,
            status=status,
            seconds=START_SECONDS,
            log=self.log.read_text,
            is_running=lambda: self.process.poll() is None,
        )

    def stop(self) -> int:
        """Stops it as an operator does; gives the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise


def long_request() -> dict[str, bytes | str]:
    """Returns the fields of a request that takes a while."""
    return {"image": written(photo(LARGE)), "mask": written(hole(LARGE)), "num_inference_steps": "150"}


@contextlib.contextmanager
def connection(server: Served, head: str) -> Iterator[socket.socket]:
    """A connection on which the head of a request was sent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        lines = [f"POST {INPAINT} HTTP/1.1", "Host: x", *head.splitlines(), "", ""]
        sock.sendall("\r\n".join(lines).encode())
        yield sock
