"""Paths and methods: which are served, and the names under which they are counted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from sd_inpaint.http.wire.errors import MethodNotAllowedError, NotFoundError

_PATH_KEY = "sd_inpaint.path"

TEMPLATE = "path_template"
"""The key in a request's state that has its path as it was declared."""

ANY_METHOD = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One served path.

    Attributes:
        template: The path as it was declared, such as ``/sd-inpaint/jobs/{id}``.
        methods: Everything it answers.
    """

    template: str
    methods: frozenset[str]


def find_endpoint(routes: Sequence[BaseRoute], scope: Scope) -> Endpoint | None:
    """Returns the endpoint at the request's path, whatever its method; None if there is none."""
    found = list(_matches(routes, scope))
    if not found:
        return None
    return Endpoint(found[0][0], frozenset().union(*(methods for _, methods in found)))


def _matches(routes: Sequence[BaseRoute], scope: Scope) -> Iterator[tuple[str, frozenset[str]]]:
    for route in routes:
        match, child_scope = route.matches(scope)
        if match is Match.NONE:
            continue
        if isinstance(route, Mount) and route.routes:
            for template, methods in _matches(route.routes, {**scope, **child_scope}):
                yield route.path + template, methods
        else:
            template = getattr(route, "path", "")
            yield template, frozenset(getattr(route, "methods", None) or ANY_METHOD)


class Routing:
    """Answers unknown paths and methods (404, 405) and OPTIONS, so that BentoML never sees an invented path.

    BentoML's metrics carry the request's path as a label: a scan for holes would leave a time series for each path it
    tries. The paths that are served reach it by their templates; :class:`Unlabel` gives the path itself back.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        endpoint = find_endpoint(self._routes, scope)
        if endpoint is None:
            raise NotFoundError(f"Nothing is served at {path[:100]!r}{self._near(scope)}.")
        scope["state"][TEMPLATE] = endpoint.template
        if method == "OPTIONS":
            allowed = ", ".join(sorted({*endpoint.methods, "OPTIONS"}))
            await Response(status_code=204, headers={"Allow": allowed})(scope, receive, send)
            return
        if method not in endpoint.methods:
            raise MethodNotAllowedError(f"{path!r} does not support {method[:20]!r}.", allowed=endpoint.methods)
        await self._app({**scope, "path": endpoint.template, _PATH_KEY: path}, receive, send)

    def _near(self, scope: Scope) -> str:
        """Names what is served where only slashes differ: a base address ends in one, or a path does."""
        path = "/" + "/".join(filter(None, scope["path"][:100].split("/")))
        return f", but {path!r} is" if find_endpoint(self._routes, {**scope, "path": path}) else ""


class Unlabel:
    """Gives a request its own path back, inside of BentoML's metrics."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        path = scope.get(_PATH_KEY, scope.get("path"))
        await self._app({**scope, "path": path} if path is not None else scope, receive, send)
