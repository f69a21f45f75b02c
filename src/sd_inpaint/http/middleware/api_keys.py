"""API keys: who may call."""

import base64
import hashlib
import hmac
from collections.abc import Collection, Iterable

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from sd_inpaint.errors import UnauthorizedError

_CALLER = "caller"
"""The key in a request's state that holds its API key's digest."""


def caller(connection: HTTPConnection) -> str:
    """Returns whose a request is: two are one caller's if they came with one API key.

    Without keys it is the address that a request came from, and what a proxy says of the one before it: enough to keep
    callers apart who mean no harm, and no more than that.
    """
    state: dict[str, object] = connection.scope.get("state", {})
    if _CALLER in state:
        return str(state[_CALLER])
    host = connection.client.host if connection.client else ""
    return f"{host} {connection.headers.get('x-forwarded-for', '')}"


class ApiKeys:
    """Lets requests in that carry one of the operator's keys, as ``Authorization: Bearer`` or ``X-API-Key``.

    Clients that know a user and a password only, as the web UI's do, give the key as the password (RFC 7617); the user
    is not looked at. Browsers are not asked to: they would ask people in a window of their own, whatever page it is.

    Keys are compared by their digests, in time that does not depend on where two keys differ, nor on their length.

    Args:
        app: What is behind the door.
        keys: The operator's; none lets everybody in.
        exempt: Paths that need no key.
    """

    def __init__(self, app: ASGIApp, keys: Iterable[str], exempt: Collection[str]) -> None:
        self._app = app
        self._exempt = exempt
        self._digests = [_digest(key.encode("utf-8")) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] == "http" and self._digests and scope["path"] not in self._exempt:
            scope.setdefault("state", {})[_CALLER] = self._check(Headers(scope=scope)).hex()
        await self._app(scope, receive, send)

    def _check(self, headers: Headers) -> bytes:
        """Returns the digest of the key that fits."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        # Starlette reads headers as Latin-1.
        offered = [key.encode("latin-1") for key in headers.getlist("x-api-key")]
        if scheme.lower() == "bearer":
            offered.append(token.strip().encode("latin-1"))
        elif scheme.lower() == "basic":
            offered.append(_password(token.strip()))
        if not offered:
            raise UnauthorizedError(
                "This server needs an API key: as 'Authorization: Bearer …', as 'X-API-Key: …', or as the password."
            )
        # Lists, not generators: each pair is compared, whichever of them matches.
        digests = [_digest(key) for key in offered]
        matches = [digest for digest in digests for known in self._digests if hmac.compare_digest(digest, known)]
        if not matches:
            raise UnauthorizedError("The API key is not valid.")
        return matches[0]


def _password(credentials: str) -> bytes:
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except ValueError:
        return b""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
