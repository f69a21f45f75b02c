"""Wrong keys, counted by the address that they come from."""

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from sd_inpaint.callers.allowance import Allowance
from sd_inpaint.errors import RateLimitedError

MAX_WRONG_KEYS = 10
"""In a minute, from one address: more than people and programs with a slip in their configuration bring about."""

MINUTE = 60.0

MAX_ADDRESSES = 4096
"""That are remembered; of more, those are forgotten that have been quiet longest."""

logger = logging.getLogger("bentoml.sd_inpaint.keys")


class WrongKeys:
    """Slows down whoever tries keys. Belongs to one thread.

    Args:
        clock: Seconds that never go back.

    Attributes:
        count: Wrong keys so far.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self._clock = clock
        self._addresses: OrderedDict[str, Allowance] = OrderedDict()

    def __len__(self) -> int:
        return len(self._addresses)

    def check(self, address: str) -> None:
        """Raises RateLimitedError if too many wrong keys have come from an address."""
        allowance = self._addresses.get(address)
        wait_seconds = 0.0 if allowance is None else allowance.wait_seconds(self._clock(), 1.0)
        if wait_seconds:
            raise RateLimitedError(
                f"More than {MAX_WRONG_KEYS} wrong API keys in a minute came from your address.",
                limit="wrong_keys",
                retry_after_seconds=math.ceil(wait_seconds),
            )

    def add(self, address: str) -> None:
        """Counts a wrong key."""
        self.count += 1
        now = self._clock()
        allowance = self._addresses.setdefault(address, Allowance(MAX_WRONG_KEYS, MINUTE, now))
        self._addresses.move_to_end(address)
        allowance.wait_seconds(now)
        allowance.take(1.0)
        if allowance.wait_seconds(now, 1.0):
            logger.warning("%d wrong API keys came from %s within a minute.", MAX_WRONG_KEYS, address or "-")
        if len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)
