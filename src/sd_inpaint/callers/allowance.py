"""So much in a period: a token bucket."""

import math


class Allowance:
    """So much in a period, and as much at once. Not thread-safe.

    Something may be taken as long as anything is left, however much it is: then the next one waits longer. So nothing
    is too large ever to be had.

    Source: the token bucket of Turner 1986 and RFC 2697, with a bucket that may go below zero.

    Args:
        amount: What may be taken in a period; 0 is no limit.
        period_seconds: How long it takes until that much may be taken again.
        now: Clock reading, in seconds.
    """

    def __init__(self, amount: float, period_seconds: float, now: float) -> None:
        self._amount = amount
        self._per_second = amount / period_seconds
        self._left = amount
        self._read_at = now

    def wait_seconds(self, now: float, needed: float = 0.0) -> float:
        """Returns how long it takes until something is left, and no less than ``needed``; 0 if it is now."""
        if not self._amount:
            return 0.0
        self._left = min(self._amount, self._left + (now - self._read_at) * self._per_second)
        self._read_at = now
        if self._left >= needed and self._left > 0:
            return 0.0
        # A little is enough where nothing in particular is needed.
        return max((needed - self._left) / self._per_second, math.ulp(1.0))

    def take(self, amount: float) -> None:
        """Takes some, whatever is left; a negative amount gives it back."""
        self._left = min(self._amount, self._left - amount)
