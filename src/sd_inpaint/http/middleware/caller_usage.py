"""What each request uses of its caller's account."""

from collections.abc import Collection

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from sd_inpaint.callers.accounts import Accounts, Usage
from sd_inpaint.http.wire.paths import A1111

_LIGHT = f"{A1111}/"
_HEAVY = f"{A1111}/img2img"
"""Of the web UI's calls, the one that is work; another ends it, and must get through."""


def usage_of(connection: HTTPConnection) -> Usage:
    """Returns what the request that ``connection`` is about uses."""
    usage: Usage = connection.state.usage
    return usage


class CallerUsage:
    """Counts requests into their callers' accounts, and holds back or refuses those beyond a caller's limits.

    Args:
        app: What comes after it.
        accounts: Every caller's.
        exempt: Paths that are not counted.
    """

    def __init__(self, app: ASGIApp, accounts: Accounts, exempt: Collection[str]) -> None:
        self._app = app
        self._accounts = accounts
        self._exempt = exempt

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] != "http" or scope["path"] in self._exempt:
            await self._app(scope, receive, send)
            return
        account = self._accounts.of(scope["state"]["caller"])
        scope["state"]["usage"] = Usage(account)
        account.count_request()
        await account.wait_for_turn()
        path: str = scope["path"]
        if scope["method"] != "POST" or (path.startswith(_LIGHT) and path != _HEAVY):
            await self._app(scope, receive, send)
            return
        account.begin()
        try:
            await self._app(scope, receive, send)
        finally:
            account.end()
