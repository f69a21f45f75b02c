"""What happens to a body that nobody reads: the connection is closed, in a way that the answer still arrives."""

from anyio import move_on_after
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sd_inpaint.errors import InpaintError

LINGER_SECONDS = 5.0
"""Closing a connection on a client that still sends resets it, and many clients then lose the answer. So what comes
after an early answer is read and dropped for a moment, as nginx does (``lingering_close``), and not kept."""

LINGER_BYTES = 100 * 1024 * 1024
"""Dropped at most: the largest body that the server reads by default."""


class UnreadBody:
    """Closes connections whose request was answered before its body had arrived, most of them by a refusal.

    Without this the server would read such a body to its end, which may never come. A body that has arrived whole costs
    nobody anything, so that connection stays open.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(Headers(scope=scope), receive)
        closes = False
        last: Message | None = None

        async def send_all_but_the_end(message: Message) -> None:
            nonlocal closes, last
            if message["type"] == "http.response.start":
                closes = message["status"] == 413 or await body.is_outstanding()
                if closes:
                    MutableHeaders(scope=message)["Connection"] = "close"
            elif closes and not message.get("more_body", False):
                last = {"type": "http.response.body", "body": b""}
                message = {**message, "more_body": True}
            await send(message)

        await self._app(scope, body.receive, send_all_but_the_end)
        if last is not None:
            await body.drop()
            await send(last)


class _Body:
    """A request's body on its way in."""

    def __init__(self, headers: Headers, receive: Receive) -> None:
        self._receive = receive
        self._has_ended = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        # A client that waits for "100 Continue" has sent nothing yet: to read would be to ask for it.
        self._waits_to_be_asked = headers.get("expect", "").lower() == "100-continue"

    async def receive(self) -> Message:
        """Passes a message on, and notes the body's end."""
        self._waits_to_be_asked = False
        message = await self._receive()
        self._has_ended = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def is_outstanding(self) -> bool:
        """Whether some of the body has not arrived by now; drops what has."""
        if not self._has_ended and not self._waits_to_be_asked:
            await self._drop_for(0.0)
        return not self._has_ended

    async def drop(self) -> None:
        """Drops what still comes, for a moment."""
        if not self._has_ended and not self._waits_to_be_asked:
            await self._drop_for(LINGER_SECONDS)

    async def _drop_for(self, seconds: float) -> None:
        dropped = 0
        with move_on_after(seconds):
            while not self._has_ended and dropped < LINGER_BYTES:
                try:
                    dropped += len((await self.receive()).get("body", b""))
                except InpaintError:
                    # The body is damaged, or too slow: there is nothing to wait for.
                    self._waits_to_be_asked = True
                    return
