"""Pages of other sites: what a browser sends on their behalf, and a server without keys must not obey."""

import ipaddress
import socket
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sd_inpaint.http.middleware.cors import AllowedOrigins
from sd_inpaint.http.wire.errors import ForbiddenHostError, ForbiddenOriginError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Change nothing and cost nothing; what other sites may read of them is for CORS to say."""

PRIVATE_NAMES = (".localhost", ".local", ".internal", ".home.arpa")
"""Reserved for one machine, link, network or home (RFC 6761, 6762, 8375; ICANN); Kubernetes' are among them."""


class Origins:
    """Refuses what a browser sends for a page of another site, if it changes or costs something.

    CORS keeps such a page from reading the answer, and not from sending the request: a form needs no preflight.
    Programs send neither ``Origin`` nor ``Sec-Fetch-Site``, and are let through.
    """

    def __init__(self, app: ASGIApp, origins: AllowedOrigins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS and self._is_foreign(Headers(scope=scope)):
            raise ForbiddenOriginError(
                "Pages of other sites may not call this server; the operator can name them in SD_INPAINT_CORS_ORIGINS."
            )
        await self._app(scope, receive, send)

    def _is_foreign(self, headers: Headers) -> bool:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        # Browsers set the second one themselves, and no page can; older ones send the first alone.
        if site in ("same-origin", "none") or self._origins.are_any:
            return False
        if origin is None:
            return site == "cross-site"
        return not self._origins.allow(origin) and origin.partition("://")[2] != headers.get("host")


class Hosts:
    """Refuses requests whose ``Host`` is not this server's: a page whose name leads here (DNS rebinding).

    IP addresses and names without a dot pass, and so do PRIVATE_NAMES: the public DNS has none of them, so that no
    stranger gives them an address. Programs that send no Host pass as well.

    Args:
        app: What is behind it.
        names: Further names, without ports; this machine's own is one anyway.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in [*names, socket.gethostname()])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] == "http":
            for host in Headers(scope=scope).getlist("host"):
                if not self._is_own(_without_port(host).lower().rstrip(".")):
                    raise ForbiddenHostError(
                        f"This server is not {host[:100]!r}; the operator can add names to SD_INPAINT_ALLOWED_HOSTS."
                    )
        await self._app(scope, receive, send)

    def _is_own(self, name: str) -> bool:
        if "." not in name or name.endswith(PRIVATE_NAMES) or name in self._names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
