"""One reading of the metrics for many who ask at once."""

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATH = "/metrics"

REST = 10.0
"""For so many times as long as a reading took, the next callers get the same: a tenth of the event loop at most."""


class SharedMetrics:
    """Answers ``GET /metrics`` from the last reading while it is fresh.

    It needs no key, and each reading goes through every worker process's files on the event loop.

    Args:
        app: What reads them.
        clock: Seconds that never go back.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._clock = clock
        self._kept: list[Message] = []
        self._fresh_until = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        started = self._clock()
        if started >= self._fresh_until:
            messages: list[Message] = []

            async def keep(message: Message) -> None:
                messages.append(message)

            await self._app(scope, receive, keep)
            ended = self._clock()
            self._kept, self._fresh_until = messages, ended + REST * (ended - started)
        for message in self._kept:
            # What stands outside adds headers of the request.
            await send({**message, "headers": [*message["headers"]]} if "headers" in message else message)
