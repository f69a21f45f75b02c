"""A request's id, and the one line that the log has about it: who, from where, what, at which cost, how it ended."""

import logging
import re
import time
import uuid
from contextvars import ContextVar
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sd_inpaint.http.middleware.client_address import client_address
from sd_inpaint.http.middleware.routing import TEMPLATE
from sd_inpaint.http.wire.errors import ERROR_CODE
from sd_inpaint.http.wire.headers import REQUEST_ID
from sd_inpaint.http.wire.paths import PROBES

logger = logging.getLogger("bentoml.sd_inpaint.http")

_current_id: ContextVar[str | None] = ContextVar("request_id", default=None)

MAX_PATH = 200
MAX_METHOD = 20
MAX_ADDRESS = 50
"""Characters of a line's parts that somebody else has chosen."""

_SANE_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")


def request_id(connection: HTTPConnection) -> str:
    """Returns the id of the request that ``connection`` is about."""
    return str(connection.state.request_id)


def current_request_id() -> str | None:
    """Returns the id of the request that this code runs for, the work of its job included; None outside of one."""
    return _current_id.get()


class AccessLog:
    """Gives each request an id (the caller's own, where it is sane) and logs how it ended.

    A line has id, method, path, status and seconds; then the name of the API key, the address, the work that the device
    was asked for in megapixel-steps, and the error's code. It has nothing of what the body holds, no key and no job id,
    and each part of it is bounded and safe to print. Those of probes stand at debug level.
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
        _current_id.set(own_id)
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

        path, method, state = scope["path"], scope["method"], scope["state"]
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            shown = state.get(TEMPLATE) or quote(path[:MAX_PATH])
            level = logging.DEBUG if shown in PROBES else logging.INFO
            seconds = time.monotonic() - started
            caller = state.get("caller")
            logger.log(
                level,
                "%s %s %s %d %.3fs key=%s address=%s cost=%.3f code=%s",
                own_id,
                quote(method[:MAX_METHOD]),
                shown,
                status,
                seconds,
                (caller and caller.name) or "-",
                quote(client_address(scope)[:MAX_ADDRESS], safe="/:") or "-",
                state["usage"].megapixel_steps if "usage" in state else 0.0,
                state.get(ERROR_CODE, "-"),
            )
