"""How many bytes a body may have, and how many the server holds at once."""

import sys
from collections import Counter

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sd_inpaint.errors import BodyTooLargeError, InpaintError, MalformedBodyError, QueueFullError
from sd_inpaint.http.middleware.client_address import client_address
from sd_inpaint.http.wire.errors import error_response
from sd_inpaint.work.memory_budget import MemoryBudget, Reservation

HELD_BODIES = 8
"""Full-size bodies that may be held at once; further ones are refused, so that they do not fill the memory."""

BUSY_RETRY_SECONDS = 5

HELD_BODIES_PER_ADDRESS = 4
"""Of these, that one address may have."""

LENGTH_DIGITS = 18
"""A Content-Length of more digits is larger than any disk."""


_HELD = "held_body"
"""The key in a request's state under which its body's bytes are counted."""


def forget_body(connection: HTTPConnection) -> None:
    """Counts a request's body as held no longer: nothing refers to its bytes any more."""
    held: Reservation | None = connection.scope.get("state", {}).get(_HELD)
    if held is not None:
        held.release()


class BodyLimit:
    """Refuses bodies over ``max_bytes``: by Content-Length before anything is read, else as soon as they pass it.

    Args:
        app: What is called.
        max_bytes: Largest body.
        budget: Where the bytes of all bodies are counted, and refused if they are too many.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, budget: MemoryBudget | None = None) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._uploads = (budget or MemoryBudget(sys.maxsize, max_upload_bytes=HELD_BODIES * max_bytes)).uploads
        self._held_by_address: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(headers.get("content-length", "0"))
        if refusal is not None:
            await error_response(refusal, scope["path"])(scope, receive, send)
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
        address = client_address(scope)
        held = self._uploads.hold()
        scope.setdefault("state", {})[_HELD] = held

        async def receive_counted() -> Message:
            nonlocal size
            message = await receive()
            arrived = len(message.get("body", b""))
            size += arrived
            self._held_by_address[address] += arrived
            if size > min(self._max_bytes, self._uploads.max_bytes):
                raise self._too_large()
            if address and self._held_by_address[address] > HELD_BODIES_PER_ADDRESS * self._max_bytes:
                raise QueueFullError(
                    "The server is already receiving too many uploads of yours.", retry_after_seconds=BUSY_RETRY_SECONDS
                )
            held.grow(arrived)
            return message

        try:
            with held:
                await self._app(scope, receive_counted, send)
        finally:
            self._held_by_address[address] -= size
            if not self._held_by_address[address]:
                del self._held_by_address[address]

    def _too_large(self) -> BodyTooLargeError:
        max_bytes = min(self._max_bytes, self._uploads.max_bytes)
        return BodyTooLargeError(
            f"The request body is larger than the {max_bytes} bytes that this server accepts.", max_bytes=max_bytes
        )
