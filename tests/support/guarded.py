"""The guarded protocol in this process, with a small application behind it: connections without a model."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from sd_inpaint.errors import InpaintError
from sd_inpaint.http.bento import protocol
from sd_inpaint.http.bento.connections import ConnectionLimits, Connections
from sd_inpaint.http.middleware.client_address import Proxies
from sd_inpaint.http.middleware.unread_body import UnreadBody
from sd_inpaint.http.wire.errors import error_response

LIMITS: dict[str, Any] = {"connections": 50, "per_address": 40, "header_seconds": 1.0, "body_rate": 1024.0}


class Guarded:
    """A served application. ``/read`` reads the body and gives its length, ``/hold`` waits until its caller leaves.

    Every other path is refused with 401, and its body is not read.

    Attributes:
        port: On this machine.
        left: How many callers of ``/hold`` were seen to leave.
        connections: The registry of the protocol.
    """

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.left = 0
        self.port = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Is the application."""
        try:
            await self._answer(scope, receive, send)
        except InpaintError as error:
            await error_response(error)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, body = 401, b"{}"
        if scope["path"] == "/read":
            status, body = 200, str(await _length(receive)).encode()
        elif scope["path"] == "/large":
            status, body = 200, bytes(50_000_000)
        elif scope["path"] == "/hold":
            await _length(receive)
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left += 1
            return
        elif scope["path"] == "/":
            status = 200
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def connect(self) -> socket.socket:
        """Opens a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(self, request: bytes) -> "Answer":
        """Sends bytes and reads to the end of what comes back."""
        with self.connect() as connection:
            with contextlib.suppress(OSError):
                connection.sendall(request)
            return read_answer(connection)

    def seconds(self) -> float:
        """Gives how long another caller waits for an answer now."""
        started = time.monotonic()
        assert self.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").status == 200
        return time.monotonic() - started


class Answer:
    """What came back until the server closed the connection.

    Attributes:
        status: Of the first response; 0 if there was none.
        responses: How many there were.
        raw: All bytes.
    """

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.status = int(raw[9:12]) if raw.startswith(b"HTTP/1.1 ") else 0
        self.responses = raw.count(b"HTTP/1.1 ")

    @property
    def code(self) -> str:
        """The error's slug."""
        return str(json.loads(self.raw.partition(b"\r\n\r\n")[2])["code"])


def read_answer(connection: socket.socket) -> Answer:
    """Reads until the server closes the connection."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65_536):
            received += piece
    return Answer(bytes(received))


async def _length(receive: Receive) -> int:
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return length
        length += len(message["body"])
        if not message["more_body"]:
            return length


@contextlib.contextmanager
def guarded(*, use_h11: bool = False, **limits: Any) -> Iterator[Guarded]:
    """Serves for as long as the block lasts."""
    connections = Connections(ConnectionLimits(**{**LIMITS, "proxies": Proxies(()), **limits}))
    made = Guarded(connections)
    kind = (
        type("Fallback", (protocol.GuardedH11,), {"registry": connections})
        if use_h11
        else protocol.serving_protocol(connections)
    )
    config = uvicorn.Config(UnreadBody(made), http=kind, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    made.port = listening.getsockname()[1]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield made
    finally:
        server.should_exit = True
        thread.join(10)
