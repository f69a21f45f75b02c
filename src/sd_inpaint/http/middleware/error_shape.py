"""The outermost edge: whatever goes wrong further in leaves in the one error shape."""

import logging
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sd_inpaint.errors import InpaintError
from sd_inpaint.http.wire.errors import HAS_SHAPE, ErrorResponse, Failure, InternalError, error_response

logger = logging.getLogger("bentoml.sd_inpaint.http")


@dataclass(frozen=True, slots=True)
class _Foreign:
    """An error response that BentoML or Starlette made by itself, in this service's words."""

    code: str
    sentence: str
    facts: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.sentence


_FOREIGN: dict[int, Failure] = {
    404: _Foreign("not_found", "Nothing is served at this path."),
    405: _Foreign("method_not_allowed", "This path does not answer this method."),
    413: _Foreign("body_too_large", "The request body is too large."),
    415: _Foreign("unsupported_media_type", "This endpoint does not read request bodies of this type."),
    429: _Foreign("queue_full", "The server is busy."),
    503: _Foreign("not_ready", "The server is not ready."),
    504: _Foreign("deadline_exceeded", "The server did not answer in time."),
}
"""Errors that BentoML and Starlette send by themselves, in their own shapes."""

_UNREADABLE = _Foreign("malformed_body", "The server cannot read this request.")

KEPT_HEADERS = ("allow", "retry-after")


class ErrorShape:
    """Turns exceptions, and error responses in any other shape, into the one error shape.

    An exception that nobody raised on purpose ends here: its traceback goes to the log, nothing of it to the caller.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reshaping = _Reshaping(scope, receive, send)
        try:
            await self._app(scope, receive, reshaping.send)
        except InpaintError as error:
            await reshaping.end(error)
        except Exception:
            request_id = scope["state"]["request_id"]
            logger.exception("Request %s failed", request_id)
            await reshaping.end(InternalError(request_id))


class _Reshaping:
    """One response on its way out; what another maker wrote about an error is dropped for our own."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._started = False
        self._replacement: ErrorResponse | None = None

    async def send(self, message: Message) -> None:
        is_error = message["type"] == "http.response.start" and message["status"] >= 400
        if is_error and not self._scope["state"].get(HAS_SHAPE):
            self._replacement = self._replaced(message)
            return
        if self._replacement is None:
            self._started = True
            await self._send(message)
        elif not message.get("more_body", False):
            self._started = True
            await self._replacement(self._scope, self._receive, self._send)

    async def end(self, error: InpaintError) -> None:
        """Sends an error, unless another response is on its way: that one can only be cut off."""
        if not self._started:
            await error_response(error, self._scope["path"])(self._scope, self._receive, self._send)

    def _replaced(self, start: Message) -> ErrorResponse:
        status: int = start["status"]
        failure: Failure
        if status in _FOREIGN:
            failure = _FOREIGN[status]
        else:
            failure = InternalError(self._scope["state"]["request_id"]) if status >= 500 else _UNREADABLE
        response = error_response(failure, self._scope["path"])
        response.status_code = status
        MutableHeaders(raw=response.raw_headers).update(
            {name: value for name, value in Headers(raw=start["headers"]).items() if name in KEPT_HEADERS}
        )
        return response
