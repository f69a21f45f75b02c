"""All connections of a process: how many there may be, and the one timer that looks at them."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from sd_inpaint.http.middleware.client_address import Proxies, caller_at

SWEEP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What connections may take.

    Attributes:
        connections: At once, of everybody.
        per_address: At once, of one caller's address.
        header_seconds: For a request's header, from the connection or its first byte.
        body_rate: Least bytes of a body a second; 0 waits for any.
        proxies: Those whose connections are of many callers: ``per_address`` is not for them.
    """

    connections: int
    per_address: int
    header_seconds: float
    body_rate: float
    proxies: Proxies


class Connection(Protocol):
    """What is asked of a connection."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    @property
    def is_idle(self) -> bool:
        """Whether no request is being read or answered."""

    @property
    def is_half_sent(self) -> bool:
        """Whether it has never sent a whole header, or is in the middle of one."""

    def check(self, now: float) -> None:
        """Ends what takes too long; ``now`` is the loop's time."""


class Connections:
    """All connections of a process. Lives as long as its server; used by its event loop alone."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._callers: dict[Connection, str] = {}
        self._count: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._callers)

    def admit(self, connection: Connection, host: str) -> bool:
        """Takes a connection in; where there is no room, in place of one without a request.

        Returns:
            False if every connection in its way has a request: this one is too many.
        """
        caller = "" if host in self.limits.proxies else caller_at(host)
        if caller and self._count[caller] >= self.limits.per_address and not self._evict(caller):
            return False
        if len(self) >= self.limits.connections and not self._evict(None):
            return False
        self._callers[connection] = caller
        self._count[caller] += 1
        if self._timer is None:
            self._timer = connection.loop.call_later(SWEEP_SECONDS, self._sweep, connection.loop)
        return True

    def remove(self, connection: Connection) -> None:
        """Forgets a connection that has ended; does nothing for one that was not admitted."""
        caller = self._callers.pop(connection, None)
        if caller is not None:
            self._count[caller] -= 1
            if not self._count[caller]:
                del self._count[caller]

    def _evict(self, caller: str | None) -> bool:
        """Ends the oldest connection without a request, of one caller or of all; half a header goes first."""
        idle = [one for one, its in self._callers.items() if caller in (None, its) and one.is_idle]
        if not idle:
            return False
        oldest = next((one for one in idle if one.is_half_sent), idle[0])
        self.remove(oldest)
        oldest.transport.abort()
        return True

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self._callers):
            connection.check(now)
        self._timer = loop.call_later(SWEEP_SECONDS, self._sweep, loop) if self._callers else None
