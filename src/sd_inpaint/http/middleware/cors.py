"""Which origins browsers may call from, and which response headers their scripts may read."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from sd_inpaint.http.wire.errors import ForbiddenOriginError, error_response

METHODS = ("GET", "HEAD", "POST", "DELETE")

EXPOSED_HEADERS = (
    "X-Seed",
    "X-Model",
    "X-Steps",
    "X-Inference-Seconds",
    "X-Region",
    "X-Image-Size",
    "X-Warning",
    "X-Request-ID",
    "Retry-After",
    "Location",
    "Idempotent-Replayed",
    "Content-Disposition",
)

PREFLIGHT_SECONDS = 3600
"""How long a browser may remember a preflight's answer; Chrome caps it at two hours."""

PREFLIGHT_HEADERS = ("access-control-allow-origin", "vary")


class Cors(CORSMiddleware):
    """Starlette's CORS, whose refusals have this service's error shape."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            # Any request header: X-Request-ID, X-API-Key, Idempotency-Key and whatever tracing adds.
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
            max_age=PREFLIGHT_SECONDS,
            # An origin that may call may do so from anywhere: a page of the internet, say, a service on this network.
            allow_private_network=True,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answers a preflight: 200, or an error that names what is not allowed."""
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        refusal = error_response(ForbiddenOriginError(f"{bytes(answer.body).decode()}."))
        for name in PREFLIGHT_HEADERS:
            if name in answer.headers:
                refusal.headers[name] = answer.headers[name]
        return refusal
