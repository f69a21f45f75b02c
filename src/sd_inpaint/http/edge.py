"""Puts what a request meets around BentoML's own application, outermost first."""

import logging

from bentoml._internal.server.http.traffic import TimeoutMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware

from sd_inpaint.http.auth import ApiKeys
from sd_inpaint.http.cors import Cors
from sd_inpaint.http.error_shape import ErrorShape
from sd_inpaint.http.journal import Journal
from sd_inpaint.http.limits import BodyLimit
from sd_inpaint.http.page import page_routes
from sd_inpaint.http.routing import Routing
from sd_inpaint.settings import Settings


def surround(app: Starlette, settings: Settings) -> Starlette:
    """Surrounds ``app``; what it does by itself (its own CORS, 404s, error bodies) never reaches a caller.

    BentoML's time-out is taken out: it waits for the first byte of a response, so an exception further in leaves the
    caller hanging until it rings, and it keeps a timer for each request until then. The engine has its own deadline.
    """
    outermost_first = [
        Middleware(Journal),
        *([Middleware(Cors, origins=settings.cors_origins)] if settings.cors_origins else []),
        Middleware(BodyLimit, max_bytes=settings.max_body_bytes),
        Middleware(ErrorShape),
        Middleware(Routing, routes=app.router.routes),
        Middleware(ApiKeys, keys=settings.api_keys),
    ]
    unwanted: object = TimeoutMiddleware
    inner = [middleware for middleware in app.user_middleware if middleware.cls is not unwanted]
    app.user_middleware[:] = [*outermost_first, *inner]
    # Before BentoML's own page, which loads a tag manager from elsewhere.
    app.router.routes[:0] = page_routes()
    return app


def configure_logging(settings: Settings) -> None:
    """Sets this service's log level; BentoML's handlers print the lines."""
    logging.getLogger("bentoml.sd_inpaint").setLevel(settings.log_level.upper())
    # It warns of each malformed body, with pieces of it; the caller gets told, and the journal has the status.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
