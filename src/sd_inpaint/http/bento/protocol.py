"""HTTP/1.1 as uvicorn speaks it, with an end to its patience.

uvicorn waits for ever for the rest of a header, for a body, and for a client that reads nothing; it answers whatever
comes, however small the pieces. :class:`Guard` stands in front of its protocols; :func:`serving_protocol` makes the one
that serves.
"""

import asyncio
import json
import re
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Scope, Send

from sd_inpaint.errors import InpaintError, MalformedBodyError
from sd_inpaint.http.bento.connections import Connections
from sd_inpaint.http.bento.exchange import Exchange
from sd_inpaint.http.bento.internals import H11Protocol, h11, httptools_protocol
from sd_inpaint.http.wire.errors import (
    MethodNotAllowedError,
    TooManyConnectionsError,
    UploadTimeoutError,
    error_body,
    status_of,
)

STALLED_SECONDS = 60.0
"""How long a client may read nothing of what it is sent. Streams of events send something every 15 s."""

REFUSED_SECONDS = 2.0
"""How long a connection that is one too many may take to send the request that gets the refusal."""

RETRY_SECONDS = 5

HEADER_BYTES = 64 * 1024

PIPELINED_BYTES = 64 * 1024
"""May come behind a request that is not answered yet. No client in use sends any."""

PIPELINED_REQUESTS = 16

DROPPED_BYTES = 1024 * 1024
"""May come after something that is not HTTP, until its answer is sent."""

MANY_CHUNKS = 4096

SMALL_CHUNK_BYTES = 16
"""A body of many chunks that are smaller than this on average is work for nothing: no client writes such."""

_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20} \S+ HTTP/1\.[01]\r?\n")

_UNREADABLE = "The server cannot read this request."

_CHOPPED = "The body comes in far too many, far too small chunks."

_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")

if TYPE_CHECKING:
    _Base = H11Protocol
else:
    _Base = object


class Guard(_Base):
    """What stands in front of uvicorn's protocols; one object for each connection. Attributes are uvicorn's."""

    registry: Connections
    transport: asyncio.Transport
    cycle: Any
    app: Any

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        # Callbacks of a connection run in the context of its first request, and would log that one's trace id.
        config.reset_contextvars = True
        super().__init__(config, *args, **kwargs)
        self._inner = self.app
        self.app = self._serve
        self._exchange: Exchange | None = None
        self._is_admitted = True
        self._is_broken = False
        self._failure: InpaintError | None = None
        self._head = b""
        self._header_since: float | None = None
        self._header_bytes = 0
        self._behind_bytes = 0
        self._unsent = (0.0, 0)
        self._chunks = self._chunked_bytes = 0

    @property
    def is_idle(self) -> bool:
        """Whether no request is being read or answered."""
        return self.cycle is None or bool(self.cycle.response_complete)

    @property
    def is_half_sent(self) -> bool:
        """Whether it has never sent a whole header, or is in the middle of one."""
        return self._header_since is not None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Is called by asyncio."""
        super().connection_made(transport)
        now = self.loop.time()
        self._header_since = now
        self._unsent = (now, 0)
        self._is_admitted = self.registry.admit(self, self.client[0] if self.client else "")
        if not self._is_admitted:
            self.loop.call_later(REFUSED_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Is called by asyncio; reaches the request that is being answered, also where others wait behind it."""
        self.registry.remove(self)
        super().connection_lost(exc)
        if self._exchange is not None and not self._exchange.cycle.response_complete:
            self._exchange.cycle.disconnected = True
            self._exchange.cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Is called by asyncio."""
        if not self._is_admitted:
            self._refuse(
                TooManyConnectionsError(
                    "The server has too many connections, of yours or of all.", retry_after_seconds=RETRY_SECONDS
                )
            )
        elif self.is_idle:
            self._read_header(data)
        elif self._is_broken or self._running().is_whole:
            self._read_behind(data)
        else:
            super().data_received(data)
            self._go_on_reading()

    def _read_header(self, data: bytes) -> None:
        if self._is_broken:
            return
        if self._header_since is None:
            self._header_since = self.loop.time()
        if not self._header_bytes:
            self._head = data[:200]
        self._header_bytes += len(data)
        self._behind_bytes = 0
        super().data_received(data)
        if self.is_idle and self._header_bytes > HEADER_BYTES:
            self._refuse(_header_too_large(), status=431)
        self._go_on_reading()

    def _read_behind(self, data: bytes) -> None:
        self._behind_bytes += len(data)
        if self._behind_bytes > (DROPPED_BYTES if self._is_broken else PIPELINED_BYTES):
            self.transport.abort()
        elif not self._is_broken:
            super().data_received(data)
            self._go_on_reading()

    def _go_on_reading(self) -> None:
        """Has a client that leaves noticed, also behind bytes that wait for their turn."""
        if self.is_idle or self.transport.is_closing():
            return
        self._header_since, self._header_bytes = None, 0
        if self._running().is_whole:
            self.flow.resume_reading()

    def _running(self) -> Exchange:
        """Returns the exchange that is being answered; only where there is one."""
        if self._exchange is None or self._exchange.cycle.response_complete:
            self._exchange = Exchange(self.cycle, self.loop.time())
        return self._exchange

    def send_400_response(self, msg: str) -> None:
        """Is called by uvicorn for what is not HTTP. A whole request before it still gets its answer."""
        self._is_broken = True
        if self.is_idle:
            error = self._failure or self._unknown_method() or MalformedBodyError(_UNREADABLE)
            self._refuse(error, 431 if self._header_bytes > HEADER_BYTES else None)
            return
        exchange = self._running()
        exchange.cycle.keep_alive = False
        if not exchange.is_whole:
            exchange.fail(self._failure or MalformedBodyError("The body's length or its chunks are damaged."))

    def _unknown_method(self) -> InpaintError | None:
        if _REQUEST_LINE.match(self._head) and self._head.split(b" ")[0].decode("ascii") not in _METHODS:
            return MethodNotAllowedError("The server knows no such method.", allowed=_METHODS)
        return None

    def count_chunk(self) -> None:
        """Counts one chunk of the body.

        Raises:
            MalformedBodyError: If they are too many and too small.
        """
        self._chunks += 1
        if self._chunks > MANY_CHUNKS and self._chunked_bytes < SMALL_CHUNK_BYTES * self._chunks:
            self._failure = MalformedBodyError(_CHOPPED)
            raise self._failure

    def check(self, now: float) -> None:
        """Ends what takes too long; is called once a second."""
        limits = self.registry.limits
        unsent = self.transport.get_write_buffer_size()
        is_moving = unsent == 0 or unsent < self._unsent[1]
        self._unsent = (now if is_moving else self._unsent[0], unsent)
        if now - self._unsent[0] > STALLED_SECONDS:
            self.transport.abort()
        elif self.is_idle:
            if self._header_since is not None and now - self._header_since > limits.header_seconds:
                self._end_wait(f"The header did not arrive within {limits.header_seconds:g} seconds.")
        elif self._running().is_slow(now, limits.body_rate):
            self._running().fail(
                UploadTimeoutError(f"The body arrives at less than {limits.body_rate:g} bytes a second.")
            )

    def _end_wait(self, message: str) -> None:
        if self._header_bytes:
            self._refuse(UploadTimeoutError(message))
        else:
            self.transport.close()

    def _refuse(self, error: InpaintError, status: int | None = None) -> None:
        """Answers what never becomes a request, and hangs up."""
        self._is_broken = True
        if not self.transport.is_closing():
            self.transport.write(_response(error, status or status_of(error)))
            self.transport.close()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Is the application as uvicorn sees it: passes a request on, with its body watched."""
        cycle = receive.__self__  # type: ignore[attr-defined]  # uvicorn's RequestResponseCycle
        if self._exchange is None or self._exchange.cycle is not cycle:
            self._exchange = Exchange(cycle, self.loop.time())
        await self._inner(scope, self._exchange.receive, send)


def serving_protocol(registry: Connections) -> type[Guard]:
    """Makes the class that serves: httptools, in C, where it is installed; else h11, in Python."""
    base = GuardedH11 if httptools_protocol is None else _guarded_httptools()
    return type("GuardedProtocol", (base,), {"registry": registry})


class _PatientH11(h11.Connection):
    """h11's connection, whose events are counted by the protocol that reads them."""

    guard: "GuardedH11"

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.guard.begin(dict(event.headers))
        elif isinstance(event, h11.Data):
            self.guard.count_data(event)
        return event


class GuardedH11(Guard, H11Protocol):
    """Over h11."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _PatientH11(h11.SERVER, HEADER_BYTES)
        self.conn.guard = self

    def begin(self, headers: dict[bytes, bytes]) -> None:
        """Refuses a request of two lengths, as httptools does: proxies may read it as another one (RFC 9112, 6.1)."""
        self._chunks = self._chunked_bytes = 0
        if b"transfer-encoding" in headers and b"content-length" in headers:
            raise h11.RemoteProtocolError("Transfer-Encoding and Content-Length")

    def count_data(self, event: Any) -> None:
        """Counts a piece of a body."""
        self._chunked_bytes += len(event.data)
        if event.chunk_start:
            try:
                self.count_chunk()
            except MalformedBodyError as error:
                raise h11.RemoteProtocolError(str(error)) from error


def _guarded_httptools() -> type[Guard]:
    class GuardedHttptools(Guard, httptools_protocol):  # type: ignore[misc]  # may be None
        """Over httptools, which stops reading where one of its callbacks raises."""

        _is_in_header = False

        def on_message_begin(self) -> None:
            self._is_in_header = True
            self._field_bytes = self._chunks = self._chunked_bytes = 0
            super().on_message_begin()

        def on_header(self, name: bytes, value: bytes) -> None:
            if not self._is_in_header:
                return  # a trailer, which must not become a header of a request that is already served
            self._field_bytes += len(name) + len(value)
            if self._field_bytes > HEADER_BYTES:
                self._failure = _header_too_large()
                raise self._failure
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._is_in_header = False
            if len(self.pipeline) >= PIPELINED_REQUESTS:
                raise MalformedBodyError(_UNREADABLE)
            super().on_headers_complete()

        def on_chunk_header(self) -> None:
            self.count_chunk()

        def on_body(self, body: bytes) -> None:
            self._chunked_bytes += len(body)
            super().on_body(body)

        def _start_asgi_task(self, cycle: Any, app: Any) -> None:
            self._exchange = Exchange(cycle, self.loop.time())
            super()._start_asgi_task(cycle, app)

    return GuardedHttptools


def _header_too_large() -> InpaintError:
    return MalformedBodyError(f"The request's header is larger than {HEADER_BYTES} bytes.")


def _response(error: InpaintError, status: int) -> bytes:
    body = json.dumps(error_body(error)).encode("ascii")
    fields = {
        "content-type": "application/json",
        "content-length": len(body),
        "x-request-id": uuid.uuid4().hex,
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        "connection": "close",
    }
    if isinstance(error, TooManyConnectionsError):
        fields["retry-after"] = RETRY_SECONDS
    if isinstance(error, MethodNotAllowedError):
        fields["allow"] = ", ".join(error.allowed)
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
