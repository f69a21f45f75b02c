"""The one table of HTTP statuses, and the one JSON shape of errors: ``{"error": sentence, "code": slug, …facts}``.

Below ``/v1`` it is OpenAI's, which its clients look into.
"""

import json
from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sd_inpaint.errors import CallerError, InpaintError, QueueFullError

Owner = TypeVar("Owner")

STATUSES = {
    "malformed_body": 400,
    "missing_field": 400,
    "invalid_parameter": 400,
    "invalid_image": 400,
    "invalid_mask": 400,
    "size_mismatch": 400,
    "unauthorized": 401,
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
    # As the IETF's draft on the Idempotency-Key header says (draft-ietf-httpapi-idempotency-key-header).
    "idempotency_conflict": 422,
    "queue_full": 429,
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
    "deadline_exceeded": 504,
}

LOADING_RETRY_SECONDS = 5
"""Weights on a local disk load in about this time; a download takes longer, and asking again costs nothing."""

STOPPING_RETRY_SECONDS = 10
"""A replaced or restarted process answers again after about this time."""

OPENAI_PREFIX = "/v1/"
"""Of the paths whose callers are OpenAI's clients."""

RETRY_SECONDS = {"model_loading": LOADING_RETRY_SECONDS, "shutting_down": STOPPING_RETRY_SECONDS}


class NotFoundError(CallerError):
    """Nothing is served under this path."""

    code = "not_found"


class MethodNotAllowedError(CallerError):
    """The path is served, but not with this method.

    Attributes:
        allowed: The methods that are, for ``Allow``.
    """

    code = "method_not_allowed"

    def __init__(self, message: str, *, allowed: Iterable[str]) -> None:
        self.allowed = tuple(sorted(allowed))
        super().__init__(message, allowed=self.allowed)


class UploadTimeoutError(CallerError):
    """The body did not come in within the time that an upload may take."""

    code = "upload_timeout"


class ForbiddenOriginError(CallerError):
    """A browser's preflight asks for what the operator's CORS settings do not allow."""

    code = "forbidden_origin"


def error_response(error: InpaintError) -> JSONResponse:
    """Gives an error its status, its headers and its JSON body."""
    return JSONResponse(
        {"error": str(error), "code": error.code, **error.facts},
        status_code=STATUSES[error.code],
        headers=_headers(error),
    )


def shaped_for(path: str, response: JSONResponse) -> JSONResponse:
    """Gives an error response the shape that callers of ``path`` read; status and headers are the same everywhere."""
    if not path.startswith(OPENAI_PREFIX):
        return response
    body = json.loads(bytes(response.body))
    shown = {
        "message": body["error"],
        "type": "invalid_request_error" if response.status_code < 500 else "server_error",
        "param": body.get("field"),
        "code": body["code"],
    }
    kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
    return JSONResponse({"error": shown}, response.status_code, headers=kept)


def answering(
    find: Callable[[], Owner], method: Callable[[Owner, Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """Makes a route's endpoint of a method, whose errors on purpose become responses.

    Args:
        find: Gives the method's owner, at each request: BentoML makes the service's instance after its routes.
        method: Answers.
    """

    @wraps(method)
    async def endpoint(request: Request) -> Response:
        try:
            return await method(find(), request)
        except InpaintError as error:
            return shaped_for(request.scope["path"], error_response(error))

    return endpoint


def _headers(error: InpaintError) -> dict[str, str]:
    headers = {"Cache-Control": "no-store"}
    retry_seconds = RETRY_SECONDS.get(error.code)
    if isinstance(error, QueueFullError):
        retry_seconds = error.retry_after_seconds
    if retry_seconds is not None:
        headers["Retry-After"] = str(retry_seconds)
    if isinstance(error, MethodNotAllowedError):
        headers["Allow"] = ", ".join(error.allowed)
    if error.code == "unauthorized":
        headers["WWW-Authenticate"] = 'Bearer realm="sd-inpaint"'
    return headers
