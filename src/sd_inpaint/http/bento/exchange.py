"""One request and its response, as far as the arrival of the body goes."""

from typing import Any

from starlette.types import Message

from sd_inpaint.errors import InpaintError

RATE_SECONDS = 10.0
"""Over which a body's rate is taken: a line may stand still for a moment."""


class Exchange:
    """Watches the body of one request.

    Args:
        cycle: uvicorn's, of this request.
        now: The loop's time.
    """

    def __init__(self, cycle: Any, now: float) -> None:
        self.cycle = cycle
        self._failure: InpaintError | None = None
        self._is_receiving = False
        self._delivered = 0
        self._window = (now, 0)

    @property
    def is_whole(self) -> bool:
        """Whether all of the request has arrived."""
        return not self.cycle.more_body

    async def receive(self) -> Message:
        """Is the application's ``receive``; raises what is wrong with the body instead of waiting for more of it."""
        self._check()
        self._is_receiving = True
        try:
            message: Message = await self.cycle.receive()
        finally:
            self._is_receiving = False
        self._check()
        self._delivered += len(message.get("body", b""))
        return message

    def fail(self, error: InpaintError) -> None:
        """Has the application meet an error where it waits for the body."""
        self._failure = error
        self.cycle.message_event.set()

    def is_slow(self, now: float, rate: float) -> bool:
        """Whether the application waits for the body, and it came slower than ``rate`` bytes a second of late."""
        arrived = self._delivered + len(self.cycle.body)
        began, before = self._window
        is_awaited = self._is_receiving and not self.is_whole and not self.cycle.body
        if not is_awaited or now - began >= RATE_SECONDS:
            self._window = (now, arrived)
        return is_awaited and now - began >= RATE_SECONDS and arrived - before < rate * (now - began)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
