"""Which origins browsers may call from, and which response headers their scripts may read."""

import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from sd_inpaint.http.wire.errors import ForbiddenOriginError, error_response

PRIVATE_NETWORK = "access-control-request-private-network"

METHODS = ("GET", "HEAD", "POST", "DELETE")

EXPOSED_HEADERS = (
    "X-Seed",
    "X-Model",
    "X-Steps",
    "X-Inference-Seconds",
    "X-Region",
    "X-Plan",
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


ANY = "*"

AUTO = "auto"

_LOCAL = r"https?://(?:(?:[\w-]+\.)*localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?"
"""Pages that this machine serves to itself, on any port."""


class AllowedOrigins:
    """Whose pages may call, by the operator's settings.

    Args:
        origins: ``*`` is everybody's; ``auto`` is everybody's where callers need a key, which no page has by itself,
            else those that the browser's own machine serves.
        needs_key: Whether callers need a key.
    """

    def __init__(self, origins: Sequence[str], *, needs_key: bool) -> None:
        is_auto = AUTO in origins
        self.are_any = ANY in origins or (is_auto and needs_key)
        self.names = (ANY,) if self.are_any else tuple(origin for origin in origins if origin != AUTO)
        self.pattern = _LOCAL if is_auto and not self.are_any else None

    def __bool__(self) -> bool:
        return bool(self.names or self.pattern)

    def allow(self, origin: str) -> bool:
        """Whether pages of an origin may call."""
        is_local = self.pattern is not None and re.fullmatch(self.pattern, origin) is not None
        return self.are_any or origin in self.names or is_local


class Cors(CORSMiddleware):
    """Starlette's CORS, whose refusals have this service's error shape."""

    def __init__(self, app: ASGIApp, origins: AllowedOrigins) -> None:
        super().__init__(
            app,
            allow_origins=origins.names,
            allow_origin_regex=origins.pattern,
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
        sentence = f"{bytes(answer.body).decode()}."
        if "origin" in sentence:
            reached = "on a private network " if PRIVATE_NETWORK in request_headers else ""
            sentence += f" This server {reached}answers pages of other sites if SD_INPAINT_CORS_ORIGINS allows them."
        refusal = error_response(ForbiddenOriginError(sentence))
        for name in PREFLIGHT_HEADERS:
            if name in answer.headers:
                refusal.headers[name] = answer.headers[name]
        return refusal
