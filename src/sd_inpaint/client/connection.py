"""Where requests go and what all of them carry, for both transports; and what their failures are."""

import os
from typing import Any

import httpx

import sd_inpaint
from sd_inpaint import environment
from sd_inpaint.client.exchange import Answer, Request, UnreachableError

DEFAULT_SERVER = "http://localhost:8000"

CONNECT_SECONDS = 10.0

WRITE_SECONDS = 60.0
"""A connection that takes nothing for so long is broken."""

MOST_CONNECTIONS = 100


class Target:
    """A server's address and its key. Immutable.

    Args:
        server: Its address, with the path under which a proxy serves it; None takes ``SD_INPAINT_SERVER``, else
            ``http://localhost:8000``.
        key: The API key; None takes ``SD_INPAINT_KEY``, else sends none.

    Raises:
        ValueError: If the address is no http or https URL, or the key no key.

    Attributes:
        server: The address, without a slash at its end.
    """

    def __init__(self, server: str | None, key: str | None) -> None:
        address = server or os.environ.get(environment.SERVER) or DEFAULT_SERVER
        try:
            url = httpx.URL(address.rstrip("/"))
        except httpx.InvalidURL as error:
            raise ValueError(f"{address!r} is not an address: {error}.") from None
        if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
            raise ValueError(f"{address!r} is not an address such as http://localhost:8000.")
        self.server = str(url)
        # A key that was read from a file ends its line.
        self._key = (key or os.environ.get(environment.KEY) or "").strip()
        if not self._key.isprintable():
            raise ValueError("The key has a character in it that no key has, such as the end of a line.")

    def arguments(self) -> dict[str, Any]:
        """Returns arguments for httpx's clients."""
        headers = [(b"User-Agent", f"sd-inpaint-client/{sd_inpaint.__version__}".encode())]
        if self._key:
            # As bytes: a key may have letters that no header has as text.
            headers.append((b"X-API-Key", self._key.encode()))
        return {"headers": headers, "limits": httpx.Limits(max_connections=MOST_CONNECTIONS)}

    def request(self, request: Request) -> dict[str, Any]:
        """Returns arguments for httpx's ``build_request``."""
        arguments: dict[str, Any] = {
            "method": request.method,
            "url": self.server + request.path,
            "headers": dict(request.headers),
            "timeout": httpx.Timeout(
                CONNECT_SECONDS, read=request.read_seconds, write=WRITE_SECONDS, pool=request.read_seconds
            ),
        }
        if request.files:
            arguments["data"] = dict(request.fields)
            arguments["files"] = {name: (name, data) for name, data in request.files.items()}
        return arguments


def answer_of(response: httpx.Response, body: bytes = b"") -> Answer:
    """Returns a response as flows read it."""
    return Answer(response.status_code, {name.lower(): value for name, value in response.headers.items()}, body)


def unreachable(error: httpx.TransportError, server: str) -> UnreachableError:
    """Says why a request got no answer."""
    was_sent = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
    if isinstance(error, httpx.TimeoutException):
        reason = "it did not answer in time"
    else:
        reason = str(error) or type(error).__name__
    return UnreachableError(f"{server} cannot be reached: {reason}.", was_sent=was_sent)
