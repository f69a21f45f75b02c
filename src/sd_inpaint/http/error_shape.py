"""The outermost edge: whatever goes wrong further in leaves in the one error shape."""

import json
import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sd_inpaint.errors import InpaintError
from sd_inpaint.http.errors import error_response, shaped_for

logger = logging.getLogger("bentoml.sd_inpaint.http")

_FOREIGN = {
    404: ("not_found", "Nothing is served here."),
    405: ("method_not_allowed", "This path is served, but not with this method."),
    413: ("body_too_large", "The request body is too large."),
    415: ("unsupported_media_type", "The request body is of a type that this endpoint does not read."),
    429: ("queue_full", "The server is busy."),
    503: ("not_ready", "The server is not ready."),
    504: ("deadline_exceeded", "The server did not answer in time."),
}
"""What BentoML and Starlette answer by themselves, in their own shapes."""

KEPT_HEADERS = ("allow", "retry-after")

HELD_BYTES = 64 * 1024
"""Bodies of other makers' error responses are looked at up to this size; they are far smaller."""


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
            await reshaping.end(error_response(error))
        except Exception:
            logger.exception("Request %s failed", scope["state"]["request_id"])
            await reshaping.end(internal_response(scope["state"]["request_id"]))


class _Reshaping:
    """One response on its way out; holds an error's body back until it is known whether its shape is right."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._started = False
        self._held: Message | None = None
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._held = message
            return
        if self._held is None:
            self._started = True
            await self._send(message)
            return
        self._body += message.get("body", b"")[:HELD_BYTES]
        if not message.get("more_body", False):
            await self._release(self._held)

    async def end(self, response: JSONResponse) -> None:
        """Sends ``response``, unless another one is on its way: that one can only be cut off."""
        if not self._started:
            response = shaped_for(self._scope["path"], response)
            await response(self._scope, self._receive, self._send)

    async def _release(self, start: Message) -> None:
        self._started = True
        if _has_shape(start, self._body):
            await self._send(start)
            await self._send({"type": "http.response.body", "body": bytes(self._body)})
            return
        response = shaped_for(self._scope["path"], _reshaped(self._scope, start))
        await response(self._scope, self._receive, self._send)


def _has_shape(start: Message, body: bytearray) -> bool:
    if not Headers(raw=start["headers"]).get("content-type", "").startswith("application/json"):
        return False
    try:
        shown = json.loads(bytes(body))
    except ValueError:
        return False
    if not isinstance(shown, dict):
        return False
    # Ours, or OpenAI's, which has it one level further in.
    inner = shown["error"] if isinstance(shown.get("error"), dict) else shown
    return isinstance(inner.get("code"), str) and isinstance(inner.get("message", shown.get("error")), str)


def _reshaped(scope: Scope, start: Message) -> JSONResponse:
    status = start["status"]
    if status not in _FOREIGN:
        if status >= 500:
            response = internal_response(scope["state"]["request_id"])
        else:
            response = _shaped(status, "malformed_body", "The server cannot read this request.")
    else:
        code, sentence = _FOREIGN[status]
        response = _shaped(status, code, sentence)
    MutableHeaders(raw=response.raw_headers).update(
        {name: value for name, value in Headers(raw=start["headers"]).items() if name in KEPT_HEADERS}
    )
    return response


def internal_response(identity: str) -> JSONResponse:
    """Answers for what nobody raised on purpose: with nothing of it but the id under which the log has it."""
    return _shaped(500, "internal", f"The server failed at this request; its log says why, under {identity}.")


def _shaped(status: int, code: str, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence, "code": code}, status_code=status, headers={"Cache-Control": "no-store"})
