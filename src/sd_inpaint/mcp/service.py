"""The service that paints: one that is served somewhere, or one of our own beside this process."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from typing import Protocol

import httpx

from sd_inpaint.client import AsyncClient, NoAnswerError
from sd_inpaint.errors import ModelFailedError

STATE_URL = "SD_INPAINT_STATE_URL"

LOADING_SECONDS = 3600.0
"""The first start may download weights."""

POLL_SECONDS = 0.5

STOP_SECONDS = 30.0


class Service(Protocol):
    """Where tools have their pictures painted."""

    def client(self, key: str | None) -> AsyncClient:
        """Returns a client with a caller's key; None takes the environment's."""

    async def wait_ready(self) -> None:
        """Waits until it can paint, as far as that is ours to know.

        Raises:
            InpaintError: If it never will.
        """


class RemoteService:
    """A service that somebody else serves.

    Args:
        server: Its address.

    Raises:
        ValueError: If that is no address.
    """

    def __init__(self, server: str) -> None:
        self._server = server

    def client(self, key: str | None) -> AsyncClient:
        """Returns a client with a caller's key; None takes the environment's."""
        return AsyncClient(self._server, key=key)

    async def wait_ready(self) -> None:
        """Does nothing: the client waits for what says that it will be ready."""


class OwnService:
    """A service in a process of its own, on a port of this machine's that only it reaches.

    Starting it takes seconds and loading its weights longer, so the first call of a tool waits for it.

    Args:
        settings: Its settings, beside this process's own environment; an empty one undoes what a file ``.env`` says.
    """

    def __init__(self, settings: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._environment = {name: value for name, value in os.environ.items() if name != STATE_URL}
        self._environment |= {"BENTOML_DO_NOT_TRACK": "True", **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serves as long as the block lasts."""
        where = ("--host", "127.0.0.1", "--port", str(self._port))
        # Another service of this user's neither lends it jobs nor gets any of its own.
        with tempfile.TemporaryDirectory(prefix="sd-inpaint-mcp-") as state:
            self._process = subprocess.Popen(  # noqa: S603, ASYNC220  # our own service; the start itself takes no time
                [sys.executable, "-P", "-m", "bentoml", "serve", "sd_inpaint.http.service:SDInpaint", *where],
                env={**self._environment, "SD_INPAINT_STATE_DIR": state},
                stdin=subprocess.DEVNULL,
                # What this process prints there is the protocol's.
                stdout=sys.stderr.fileno(),
            )
            try:
                yield
            finally:
                self._process.terminate()
                await asyncio.to_thread(self._end)

    def client(self, key: str | None) -> AsyncClient:
        """Returns a client with a caller's key; None takes the environment's."""
        return AsyncClient(f"http://127.0.0.1:{self._port}", key=key)

    async def wait_ready(self) -> None:
        """Waits until its weights are loaded.

        Raises:
            NoAnswerError: If its process has ended.
            ModelFailedError: If they cannot be loaded.
        """
        deadline = time.monotonic() + LOADING_SECONDS
        async with httpx.AsyncClient(timeout=LOADING_SECONDS) as http:
            while not self._is_ready:
                if self._process is None or self._process.poll() is not None:
                    raise NoAnswerError("The service ended; what it printed says why.")
                with contextlib.suppress(httpx.TransportError):
                    health = await http.get(f"http://127.0.0.1:{self._port}/sd-inpaint/health")
                    self._is_ready = health.status_code == 200
                    if not self._is_ready and health.json()["status"] in ("failed", "disabled"):
                        raise ModelFailedError(health.json()["error"])
                if time.monotonic() > deadline:
                    raise NoAnswerError(f"The service was not ready after {LOADING_SECONDS:.0f} seconds.")
                if not self._is_ready:
                    await asyncio.sleep(POLL_SECONDS)

    def _end(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
