"""How many bytes a body may have, and how many the server holds at once."""

from anyio import move_on_after
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sd_inpaint.errors import BodyTooLargeError, InpaintError, MalformedBodyError, QueueFullError
from sd_inpaint.http.wire.errors import error_response

HELD_BODIES = 8
"""Full-size bodies that may be held at once; further ones are refused, so that they do not fill the memory."""

BUSY_RETRY_SECONDS = 5

LINGER_SECONDS = 5.0
"""Closing a connection on a client that still sends resets it, and many clients then lose the answer. So what comes
after a refusal is read and dropped for a moment, as nginx does (``lingering_close``), and not kept."""

LENGTH_DIGITS = 18
"""A Content-Length of more digits is larger than any disk."""


class BodyLimit:
    """Refuses bodies over ``max_bytes``: by Content-Length before anything is read, else as soon as they pass it."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(headers.get("content-length", "0"))
        if refusal is not None:
            # A client that waits for "100 Continue" has sent nothing yet: to read would be to ask for it.
            waits = headers.get("expect", "").lower() == "100-continue"
            response = error_response(refusal, scope["path"])
            await response(scope, receive, _Lingering(None if waits else receive, send).send)
            return
        await self._count(scope, receive, send)

    def _refusal(self, declared: str) -> InpaintError | None:
        if not (declared.isascii() and declared.isdigit()):
            return MalformedBodyError("The Content-Length header is not a number.")
        if len(declared) > LENGTH_DIGITS or int(declared) > self._max_bytes:
            return self._too_large()
        return None

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0
        answer = send

        async def receive_counted() -> Message:
            nonlocal size, answer
            message = await receive()
            arrived = len(message.get("body", b""))
            size += arrived
            self._held_bytes += arrived
            if size > self._max_bytes:
                answer = _Lingering(receive if message.get("more_body", False) else None, send).send
                raise self._too_large()
            if self._held_bytes > HELD_BODIES * self._max_bytes:
                raise QueueFullError(
                    "The server is already receiving too many uploads.", retry_after_seconds=BUSY_RETRY_SECONDS
                )
            return message

        async def send_answer(message: Message) -> None:
            await answer(message)

        try:
            await self._app(scope, receive_counted, send_answer)
        finally:
            self._held_bytes -= size

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"The request body is larger than the {self._max_bytes} bytes that this server accepts.",
            max_bytes=self._max_bytes,
        )


class _Lingering:
    """Sends a refusal whole, drops what the client still sends for a moment, then has the connection closed.

    Args:
        receive: Where the rest of the body comes from; None if there is none.
        send: Where the refusal goes.
    """

    def __init__(self, receive: Receive | None, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Connection"] = "close"
        elif not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._drop()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _drop(self) -> None:
        with move_on_after(LINGER_SECONDS):
            while self._receive is not None:
                message = await self._receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
