"""The one table of HTTP statuses, and the one JSON shape of errors: ``{"error": sentence, "code": slug, …facts}``.

Below ``/v1`` it is OpenAI's, which its clients look into.
"""

import json
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import wraps
from typing import Annotated, Final, NotRequired, Protocol

from pydantic import WithJsonSchema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send
from typing_extensions import TypedDict

from sd_inpaint.errors import BusyError, CallerError, InpaintError
from sd_inpaint.http.wire.headers import NO_STORE
from sd_inpaint.http.wire.paths import OPENAI, PROBES
from sd_inpaint.telemetry.metrics import REFUSALS

HAS_SHAPE: Final = "has_error_shape"
"""The key in a request's state that says its response is an :class:`ErrorResponse`."""

ERROR_CODE: Final = "error_code"
"""The key in a request's state that has the code of the error it was answered with."""

STATUSES = {
    "malformed_body": 400,
    "missing_field": 400,
    "invalid_parameter": 400,
    "invalid_image": 400,
    "invalid_mask": 400,
    "size_mismatch": 400,
    "unauthorized": 401,
    "forbidden_host": 403,
    "forbidden_origin": 403,
    "not_found": 404,
    "job_not_found": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "upload_timeout": 408,
    "job_not_ready": 409,
    "body_too_large": 413,
    "image_too_large": 413,
    "unsupported_media_type": 415,
    "content_flagged": 422,
    "invalid_loras": 422,
    # As the IETF's draft on the Idempotency-Key header says (draft-ietf-httpapi-idempotency-key-header).
    "idempotency_conflict": 422,
    "queue_full": 429,
    "rate_limited": 429,
    "quota_exceeded": 429,
    "too_many_connections": 429,
    # nginx's "client closed request": nobody reads it but the log.
    "cancelled": 499,
    "internal": 500,
    "out_of_memory": 500,
    "invalid_output": 500,
    "job_lost": 500,
    "invalid_settings": 500,
    "invalid_weights": 500,
    "model_loading": 503,
    "model_disabled": 503,
    "model_failed": 503,
    "shutting_down": 503,
    "not_ready": 503,
    "state_unavailable": 503,
    "credentials_expired": 503,
    "deadline_exceeded": 504,
}

LOADING_RETRY_SECONDS = 5
"""Weights on a local disk load in about this time; a download takes longer, and asking again costs nothing."""

STOPPING_RETRY_SECONDS = 10
"""A replaced or restarted process answers again after about this time."""

RETRY_SECONDS = {"model_loading": LOADING_RETRY_SECONDS, "shutting_down": STOPPING_RETRY_SECONDS}


Code = Annotated[str, WithJsonSchema({"type": "string", "enum": list(STATUSES)})]
"""The code of an error."""


class Error(TypedDict):
    """Every error has this shape, whatever its status; many have further keys, such as ``minimum`` and ``maximum``."""

    error: str
    code: Code
    field: NotRequired[str]
    retry_after_seconds: NotRequired[int]


class OpenAIErrorDetail(TypedDict):
    """What is wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: Code


class OpenAIError(TypedDict):
    """The shape of errors below ``/v1``."""

    error: OpenAIErrorDetail


STATUSES_WITH_RETRY = {429}
"""Statuses that come with Retry-After whatever the code; some codes of others have it too."""


class NotFoundError(CallerError):
    """Nothing is served at this path."""

    code = "not_found"


class MethodNotAllowedError(CallerError):
    """The path does not support this method.

    Attributes:
        allowed: The methods that are, for ``Allow``.
    """

    code = "method_not_allowed"

    def __init__(self, message: str, *, allowed: Iterable[str]) -> None:
        self.allowed = tuple(sorted(allowed))
        super().__init__(message, allowed=self.allowed)


class UploadTimeoutError(CallerError):
    """A header or a body did not arrive within the time that it may take."""

    code = "upload_timeout"


class ForbiddenOriginError(CallerError):
    """A page asks for what the operator's CORS settings do not allow its site."""

    code = "forbidden_origin"


class ForbiddenHostError(CallerError):
    """The Host header names another server: a page whose name leads here sent the request."""

    code = "forbidden_host"


class NotReadyError(InpaintError):
    """The server would not take a request now."""

    code = "not_ready"


class TooManyConnectionsError(CallerError):
    """The server, or the caller's address, has as many connections as it may have."""

    code = "too_many_connections"


class InternalError(InpaintError):
    """Something failed that nobody foresaw; callers get nothing of it but the id under which the log has it."""

    code = "internal"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"Internal error; see the server log for request {request_id}.")


def error_headers(codes: Collection[str]) -> dict[str, str]:
    """Returns the headers that some errors of these codes have: name → what it says."""
    headers = {}
    if STATUSES_WITH_RETRY & {STATUSES[code] for code in codes} or RETRY_SECONDS.keys() & set(codes):
        headers["Retry-After"] = "Seconds until it is worth to try again."
    if "unauthorized" in codes:
        headers["WWW-Authenticate"] = "How to send a key."
    return headers


class Failure(Protocol):
    """An error, or what was written down of one; ``str`` gives its sentence."""

    @property
    def code(self) -> str:
        """The slug."""

    @property
    def facts(self) -> dict[str, object]:
        """What stands beside the sentence."""


class ErrorResponse(JSONResponse):
    """An error in the shape that its caller reads; :mod:`sd_inpaint.http.middleware.error_shape` lets it pass.

    Args:
        failure: The error.
        path: That it is an answer to.
    """

    def __init__(self, failure: Failure, path: str = "") -> None:
        super().__init__(error_body(failure, path), status_of(failure), headers=_headers(failure))
        self._code = failure.code

    def render(self, content: object) -> bytes:
        """Encodes the body; half surrogates of a caller's, which no encoding has, as question marks."""
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response."""
        state = scope.setdefault("state", {})
        state[HAS_SHAPE], state[ERROR_CODE] = True, self._code
        if scope["path"] not in PROBES:
            # One that an earlier version wrote down has no name of its own here.
            REFUSALS.add(1, self._code if self._code in STATUSES else "internal")
        await super().__call__(scope, receive, send)


def error_body(failure: Failure, path: str = "") -> dict[str, object]:
    """Returns an error's JSON as callers of ``path`` read it."""
    if not path.startswith(f"{OPENAI}/"):
        return {"error": str(failure), "code": failure.code, **failure.facts}
    shown = {
        "message": str(failure),
        "type": "invalid_request_error" if status_of(failure) < 500 else "server_error",
        "param": failure.facts.get("field"),
        "code": failure.code,
    }
    return {"error": shown}


def status_of(failure: Failure) -> int:
    """Returns an error's status; 500 for a code that an earlier version wrote down and this one does not know."""
    return STATUSES.get(failure.code, 500)


def error_response(failure: Failure, path: str = "") -> ErrorResponse:
    """Gives an error its status, its headers and its body."""
    return ErrorResponse(failure, path)


def answering(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Makes a route's endpoint of a method, whose errors on purpose become responses."""

    @wraps(answer)
    async def endpoint(request: Request) -> Response:
        try:
            return await answer(request)
        except InpaintError as error:
            return error_response(error, request.scope["path"])

    return endpoint


def _headers(failure: Failure) -> dict[str, str]:
    headers = dict(NO_STORE)
    retry_seconds = RETRY_SECONDS.get(failure.code)
    if isinstance(failure, BusyError):
        retry_seconds = failure.retry_after_seconds
    if retry_seconds is not None:
        headers["Retry-After"] = str(retry_seconds)
    if isinstance(failure, MethodNotAllowedError):
        headers["Allow"] = ", ".join(failure.allowed)
    if failure.code == "unauthorized":
        headers["WWW-Authenticate"] = 'Bearer realm="sd-inpaint"'
    return headers
