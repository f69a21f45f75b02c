"""A request's id, and the one line that the log has about it."""

import logging
import re
import time
import uuid
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("bentoml.sd_inpaint.http")

REQUEST_ID_HEADER = "X-Request-ID"

_SANE_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")

QUIET_PATHS = frozenset({"/sd-inpaint/health", "/livez", "/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by machines; their lines stand at debug level."""


def request_id(connection: HTTPConnection) -> str:
    """Returns the id of the request that ``connection`` is about."""
    return str(connection.state.request_id)


class Journal:
    """Gives each request an id (the caller's own, where it is sane) and logs how it ended.

    A line has id, method, path, status and seconds: nothing of what the caller sent in the body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        offered = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        identity = offered if _SANE_ID.fullmatch(offered) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = identity
        started = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = identity
            await send(message)

        path, method = scope["path"], scope["method"]
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            level = logging.DEBUG if path in QUIET_PATHS else logging.INFO
            seconds = time.monotonic() - started
            logger.log(level, "%s %s %s %d %.3fs", identity, method, quote(path[:200]), status, seconds)
