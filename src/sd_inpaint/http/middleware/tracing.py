"""A request's span, joined to the caller's trace: around the access log, whose line has its ids."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sd_inpaint.http.middleware.routing import TEMPLATE
from sd_inpaint.http.wire.paths import PROBES
from sd_inpaint.telemetry.tracing import name_request, request_span


class Tracing:
    """Opens a span for each request but those of probes, and ends it with the response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        status = 0

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with request_span(scope["method"], Headers(scope=scope)):
            try:
                await self._app(scope, receive, send_noting_status)
            finally:
                name_request(scope["method"], state.get(TEMPLATE, ""), status)
