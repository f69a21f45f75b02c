"""A request's id, and the one line that the log has about it."""

import logging
import re
import time
import uuid
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sd_inpaint.http.wire.headers import REQUEST_ID
from sd_inpaint.http.wire.paths import PROBES

logger = logging.getLogger("bentoml.sd_inpaint.http")

_SANE_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")


def request_id(connection: HTTPConnection) -> str:
    """Returns the id of the request that ``connection`` is about."""
    return str(connection.state.request_id)


class AccessLog:
    """Gives each request an id (the caller's own, where it is sane) and logs how it ended.

    A line has id, method, path, status and seconds, and nothing of what the body holds. Those of probes stand at debug
    level.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        offered = Headers(scope=scope).get(REQUEST_ID, "")
        own_id = offered if _SANE_ID.fullmatch(offered) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = own_id
        started = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = own_id
                # A result is never a page, whatever its bytes look like.
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        path, method = scope["path"], scope["method"]
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            level = logging.DEBUG if path in PROBES else logging.INFO
            seconds = time.monotonic() - started
            logger.log(level, "%s %s %s %d %.3fs", own_id, method, quote(path[:200]), status, seconds)
