"""API keys: who may call, and who it is."""

import base64
from collections.abc import Collection, Sequence

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from sd_inpaint.callers.accounts import Accounts
from sd_inpaint.callers.caller import Caller
from sd_inpaint.callers.keyring import Keyring
from sd_inpaint.callers.wrong_keys import WrongKeys
from sd_inpaint.errors import RateLimitedError, UnauthorizedError
from sd_inpaint.http.middleware.client_address import client_address

MOST_OFFERED = 4
"""Keys in one request; each is compared with each that is known."""

UNGUESSABLE = 24
"""Bytes of a key that nobody finds by trying, however fast: `scripts/keys` makes longer ones."""


def caller_of(connection: HTTPConnection) -> Caller:
    """Returns who makes the request that ``connection`` is about."""
    caller: Caller = connection.state.caller
    return caller


class ApiKeys:
    """Lets requests in that carry one of the operator's keys, as ``Authorization: Bearer`` or ``X-API-Key``.

    Clients that know a user and a password only, as the web UI's do, give the key as the password (RFC 7617); the user
    is not looked at. Browsers are not asked to: they would ask people in a window of their own, whatever page it is.

    Args:
        app: What is behind the door.
        keyring: The operator's; one that needs no key lets everybody in, without a name.
        exempt: Paths that need no key.
        accounts: Whose pace refusals keep, by address.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, exempt: Collection[str], accounts: Accounts) -> None:
        self._app = app
        self._keyring = keyring
        self._exempt = exempt
        self._accounts = accounts
        self._wrong_keys = WrongKeys()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] == "http":
            address = client_address(scope)
            is_open = scope["path"] in self._exempt or not self._keyring.is_needed
            try:
                name = None if is_open else self._name(Headers(scope=scope), address)
            except (UnauthorizedError, RateLimitedError):
                # A refusal takes time too.
                await self._accounts.of(Caller(None, address)).wait_for_turn()
                raise
            scope["state"]["caller"] = Caller(name, address)
        await self._app(scope, receive, send)

    def _name(self, headers: Headers, address: str) -> str:
        offered = _offered(headers)
        if not offered:
            raise UnauthorizedError(
                "This server needs an API key: as 'Authorization: Bearer …', as 'X-API-Key: …', or as the password."
            )
        try:
            self._wrong_keys.check(address)
        except RateLimitedError:
            # Who shares an address with one who tries keys is served all the same, unless theirs could be found so.
            name = self._match([key for key in offered if len(key) >= UNGUESSABLE])
            if name is None:
                raise
            return name
        name = self._match(offered)
        if name is None:
            self._wrong_keys.add(address)
            raise UnauthorizedError("The API key is not valid.")
        return name

    def _match(self, offered: Sequence[bytes]) -> str | None:
        return self._keyring.name_of(offered) if len(offered) <= MOST_OFFERED else None


def _offered(headers: Headers) -> list[bytes]:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    # Starlette reads headers as Latin-1.
    offered = [key.encode("latin-1") for key in headers.getlist("x-api-key")]
    if scheme.lower() == "bearer":
        offered.append(token.strip().encode("latin-1"))
    elif scheme.lower() == "basic":
        offered.append(_password(token.strip()))
    return offered


def _password(credentials: str) -> bytes:
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except ValueError:
        return b""
