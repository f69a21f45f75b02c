"""Who is calling, as far as an address says: what limits by address count by."""

import ipaddress
from collections.abc import Iterable

from starlette.types import Scope

IPV6_CALLER_BITS = 64
"""The part of an IPv6 address that one caller has to itself: providers give each line at least a /64."""


def client_address(scope: Scope) -> str:
    """Returns the caller of an ASGI connection, as :func:`caller_at` writes it; empty for a Unix socket.

    Where a trusted proxy (``SD_INPAINT_TRUSTED_PROXIES``) passed the request on, this is the address in its
    ``X-Forwarded-For``: uvicorn has put it into the scope. Nobody else's header is looked at.
    """
    client = scope.get("client")
    return caller_at(client[0]) if client else ""


def caller_at(host: str) -> str:
    """Returns the caller at an address: IPv4 as it is, also where IPv6 maps it; IPv6 by its first 64 bits."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.is_loopback:
        return str(address)
    return str(ipaddress.ip_network((address, IPV6_CALLER_BITS), strict=False))


class Proxies:
    """The proxies whose word about their callers counts.

    Args:
        networks: Addresses and networks, such as ``10.0.0.0/8``.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]

    def __contains__(self, host: object) -> bool:
        try:
            address = ipaddress.ip_address(str(host))
        except ValueError:
            return False
        return any(address in network for network in self._networks)
