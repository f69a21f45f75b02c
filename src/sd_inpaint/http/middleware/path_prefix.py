"""The path below which callers reach this service, where a proxy serves other things beside it."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from sd_inpaint.http.middleware.routing import find_endpoint
from sd_inpaint.http.wire.headers import FORWARDED_PREFIX
from sd_inpaint.settings import is_path

_STATE_KEY = "path_prefix"


def path_prefix(connection: HTTPConnection) -> str:
    """Returns the prefix of a request's addresses: empty, or a path without a slash at its end."""
    return str(connection.scope.get("state", {}).get(_STATE_KEY, ""))


class PathPrefix:
    """Finds the prefix, and takes it off paths from which the proxy did not.

    It is the operator's setting, else what the proxy says of the request (``X-Forwarded-Prefix``), else the server's
    own (ASGI's ``root_path``). A header that is no plain path is ignored: it goes into addresses that callers follow.

    Args:
        app: What is served.
        routes: Of everything that is served; a path that is among them as it came is left as it is.
        setting: The operator's; None without.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], setting: str | None) -> None:
        self._app = app
        self._routes = routes
        self._setting = setting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        forwarded = _forwarded(Headers(scope=scope).getlist(FORWARDED_PREFIX))
        prefix = (self._setting or forwarded or scope.get("root_path", "")).rstrip("/")
        # From here on, paths are the ones that are declared.
        scope = {**scope, "root_path": ""}
        # In place: the access log reads there what became of the request.
        scope.setdefault("state", {})[_STATE_KEY] = prefix
        path = scope["path"]
        if prefix and path == prefix and scope["type"] == "http":
            # The page's own addresses are relative to the folder that it is in.
            await Response(status_code=308, headers={"Location": f"{prefix}/"})(scope, receive, send)
            return
        if prefix and path.startswith(f"{prefix}/") and find_endpoint(self._routes, scope) is None:
            scope["path"] = path.removeprefix(prefix)
        await self._app(scope, receive, send)


def _forwarded(lines: Sequence[str]) -> str:
    """Reads the header; a chain of proxies each of which adds its own makes one path of them, outermost first."""
    parts = [part.strip().rstrip("/") for line in lines for part in line.split(",")]
    prefix = "".join(parts)
    return prefix if is_path(prefix) and all(not part or is_path(part) for part in parts) else ""
