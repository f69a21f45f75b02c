"""What each caller uses of this process, and what they may use."""

import asyncio
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from sd_inpaint.callers.allowance import Allowance
from sd_inpaint.callers.caller import Caller
from sd_inpaint.callers.limits import UNLIMITED, CallerLimits
from sd_inpaint.errors import QuotaExceededError, RateLimitedError

MAX_ACCOUNTS = 4096
"""Callers that are remembered; of more, those are forgotten that have been quiet longest."""

MINUTE = 60.0
HOUR = 3600.0

REQUESTS_PER_SECOND = 100
"""Of one caller, and as many at once. Each keeps the event loop busy for one to three milliseconds, whatever it is."""

MAX_TURN_SECONDS = 5.0
"""How long a request waits for its turn at that pace."""

BUSY_RETRY_SECONDS = 5
"""Nobody knows when one of a caller's requests ends."""


class Account:
    """One caller's use of this process. Any thread may call it.

    Attributes:
        label: Whose it is.
        limits: As they are set now.
    """

    def __init__(self, label: str, limits: CallerLimits, clock: Callable[[], float]) -> None:
        self.label = label
        self._clock = clock
        self._lock = threading.Lock()
        self._in_progress = 0
        self._pace = Allowance(REQUESTS_PER_SECOND, 1.0, clock())
        self.set_limits(limits)

    def set_limits(self, limits: CallerLimits) -> None:
        """Applies limits; those that were changed start afresh."""
        now = self._clock()
        self._requests = Allowance(limits.requests_per_minute, MINUTE, now)
        self._work = Allowance(limits.megapixel_steps_per_hour, HOUR, now)
        self.limits = limits

    @property
    def in_progress(self) -> int:
        """Requests and jobs that have not ended."""
        return self._in_progress

    def count_request(self) -> None:
        """Counts a request; raises RateLimitedError if there have been too many."""
        with self._lock:
            wait_seconds = self._requests.wait_seconds(self._clock(), 1.0)
            if not wait_seconds:
                self._requests.take(1.0)
                return
        raise RateLimitedError(
            f"More than {self.limits.requests_per_minute:g} requests a minute.",
            limit="requests_per_minute",
            retry_after_seconds=math.ceil(wait_seconds),
        )

    async def wait_for_turn(self) -> None:
        """Holds back a request of a caller who sends them faster than others could be served beside them.

        Raises:
            RateLimitedError: If it would take too long.
        """
        with self._lock:
            wait_seconds = self._pace.wait_seconds(self._clock(), 1.0)
            if wait_seconds <= MAX_TURN_SECONDS:
                self._pace.take(1.0)
        if wait_seconds > MAX_TURN_SECONDS:
            raise RateLimitedError(
                f"More than {REQUESTS_PER_SECOND} requests a second.",
                limit="requests_per_second",
                retry_after_seconds=math.ceil(wait_seconds),
            )
        if wait_seconds:
            await asyncio.sleep(wait_seconds)

    def begin(self, *, force: bool = False) -> None:
        """Counts something that is in progress until :meth:`end`.

        Raises:
            RateLimitedError: If too much is in progress, unless ``force``: then it was let in before.
        """
        most = self.limits.concurrency
        with self._lock:
            if force or not most or self._in_progress < most:
                self._in_progress += 1
                return
        raise RateLimitedError(
            f"Already {most} of your requests and jobs are in progress, and no more may be.",
            limit="concurrency",
            retry_after_seconds=BUSY_RETRY_SECONDS,
        )

    def end(self) -> None:
        """Counts it out."""
        with self._lock:
            self._in_progress -= 1

    def check_work(self) -> None:
        """Raises QuotaExceededError if no more work may be asked for now."""
        with self._lock:
            self._check_work()

    def take_work(self, megapixel_steps: float, *, force: bool = False) -> None:
        """Counts work that the device is asked for; a negative amount gives it back.

        Raises:
            QuotaExceededError: If what was allowed is used up, unless ``force``.
        """
        with self._lock:
            if not force and megapixel_steps > 0:
                self._check_work()
            self._work.take(megapixel_steps)

    def _check_work(self) -> None:
        wait_seconds = self._work.wait_seconds(self._clock())
        if wait_seconds:
            raise QuotaExceededError(
                f"The {self.limits.megapixel_steps_per_hour:g} megapixel-steps of an hour are used up.",
                limit="megapixel_steps_per_hour",
                retry_after_seconds=math.ceil(wait_seconds),
            )

    def check_kept(self, kept_bytes: int, more_bytes: int, retry_after_seconds: float) -> None:
        """Raises QuotaExceededError if ``more_bytes`` cannot be kept beside ``kept_bytes``."""
        most = self.limits.kept_bytes
        if most and kept_bytes + more_bytes > most:
            raise QuotaExceededError(
                f"Your jobs may keep {most} bytes; they keep {kept_bytes}, and this one needs {more_bytes}. Delete "
                "results that you have read.",
                limit="kept_bytes",
                retry_after_seconds=max(1, math.ceil(retry_after_seconds)),
            )


class Usage:
    """What one request or job uses of its caller's account. Belongs to that request or job.

    Attributes:
        account: The caller's.
        megapixel_steps: Work so far, as it was asked for, less what was given back.
    """

    def __init__(self, account: Account) -> None:
        self.account = account
        self.megapixel_steps = 0.0

    @property
    def caller(self) -> str:
        """The caller's label."""
        return self.account.label

    @property
    def share(self) -> float:
        """Of the device, compared with other callers'."""
        return self.account.limits.share

    def take_work(self, megapixel_steps: float, *, force: bool = False) -> None:
        """As :meth:`Account.take_work`."""
        self.account.take_work(megapixel_steps, force=force)
        self.megapixel_steps += megapixel_steps


class Accounts:
    """Every caller's account, as far as they are remembered. Any thread may call it.

    Args:
        limits_of: The limits of a caller's name; None stands for one without.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        limits_of: Callable[[str | None], CallerLimits] = lambda name: UNLIMITED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits_of = limits_of
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accounts)

    def of(self, caller: Caller) -> Account:
        """Returns a caller's account, with the limits that are set now."""
        limits = self._limits_of(caller.name)
        with self._lock:
            account = self._accounts.get(caller.label)
            if account is None:
                account = self._accounts[caller.label] = Account(caller.label, limits, self._clock)
                self._forget()
            elif account.limits != limits:
                account.set_limits(limits)
            self._accounts.move_to_end(caller.label)
            return account

    def _forget(self) -> None:
        if len(self._accounts) <= MAX_ACCOUNTS:
            return
        # What is in progress is counted out of the account that it was counted into.
        idle = next((label for label, account in self._accounts.items() if not account.in_progress), None)
        if idle is not None:
            del self._accounts[idle]
