"""When a request that failed is sent again, and how long to wait before."""

import datetime as dt
import email.utils
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from sd_inpaint.client.errors import NoAnswerError, error_body, error_of
from sd_inpaint.client.exchange import Answer, Flow, Request, Send, Sleep, UnreachableError
from sd_inpaint.errors import InpaintError

Notify: TypeAlias = Callable[[str, float], None]
"""Gets why a request is sent again, as a sentence, and in how many seconds."""

_GATEWAY_STATUSES = (502, 503, 504)
"""What proxies answer while the service behind them is away."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How long a client goes on trying. Immutable.

    A request is sent again if the service says when (``Retry-After``), if a proxy answers for a service that is away,
    or if no answer comes and a second try can do no harm.

    Attributes:
        most: Tries after the first one.
        longest_seconds: The longest single wait; a ``Retry-After`` beyond it is an error at once.
        first_seconds: About the first wait, where the server names none; each further one is twice as long.
        total_seconds: All waits together.
    """

    most: int = 8
    longest_seconds: float = 60.0
    first_seconds: float = 0.5
    total_seconds: float = 300.0

    def wait_seconds(self, tried: int, waited: float, asked: float | None) -> float | None:
        """Returns how long to wait before the next try; None if there is to be none.

        Args:
            tried: Tries that failed, at least 1.
            waited: Seconds waited so far.
            asked: What ``Retry-After`` says, in seconds; None without.
        """
        if asked is None:
            seconds = min(self.first_seconds * 2.0 ** (tried - 1), self.longest_seconds)
            # Many clients that failed together do not come back together.
            seconds *= random.uniform(0.5, 1.0)  # noqa: S311  # no secret
        else:
            seconds = asked
        fits = tried <= self.most and seconds <= self.longest_seconds and waited + seconds <= self.total_seconds
        return seconds if fits else None


NO_RETRIES = Retries(most=0)


def retry_after(answer: Answer) -> float | None:
    """Reads ``Retry-After``, as seconds or as a date, by the server's clock. None without, or if it is neither."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    until = _date(text)
    if until is None:
        return None
    now = _date(answer.headers.get("date", "")) or dt.datetime.now(dt.UTC)
    return max(0.0, (until - now).total_seconds())


class Attempts:
    """Counts the tries of one request, and paces them.

    Args:
        retries: How often.
        notify: Gets a sentence and the seconds before each wait.
    """

    def __init__(self, retries: Retries, notify: Notify | None = None) -> None:
        self._retries = retries
        self._notify = notify
        self._tried, self._waited = 0, 0.0

    def succeeded(self) -> None:
        """Starts to count from the beginning."""
        self._tried, self._waited = 0, 0.0

    def pause(self, failure: InpaintError, asked: float | None, *, may_retry: bool = True) -> Sleep:
        """Returns the pause before the next try.

        Args:
            failure: Why the last one failed; is raised if it was the last.
            asked: What the server says, in seconds; None without.
            may_retry: False allows no further try.
        """
        self._tried += 1
        seconds = self._retries.wait_seconds(self._tried, self._waited, asked)
        if not may_retry or seconds is None:
            raise failure
        if self._notify is not None:
            self._notify(str(failure), seconds)
        self._waited += seconds
        return Sleep(seconds)


def send(request: Request, retries: Retries, notify: Notify | None = None) -> Flow[Answer]:
    """Sends a request until it succeeds, or will not; ``notify`` as for :class:`Attempts`.

    Raises:
        ServiceError: If the service refuses it.
        NoAnswerError: If no answer came.
    """
    attempts = Attempts(retries, notify)
    while True:
        try:
            answer: Answer = yield Send(request)
        except UnreachableError as error:
            may_retry = request.is_repeatable or not error.was_sent
            yield attempts.pause(NoAnswerError(str(error)), None, may_retry=may_retry)
            continue
        if answer.status < 300:
            return answer
        yield pause_after(answer, request, attempts)


def pause_after(answer: Answer, request: Request, attempts: Attempts) -> Sleep:
    """Returns the pause after an answer that is no success; raises its error if there is to be no further try."""
    asked = retry_after(answer)
    may_retry = asked is not None or _is_gateways(answer, request)
    return attempts.pause(error_of(answer, asked), asked, may_retry=may_retry)


def _is_gateways(answer: Answer, request: Request) -> bool:
    return request.is_repeatable and answer.status in _GATEWAY_STATUSES and error_body(answer) is None


def _date(text: str) -> dt.datetime | None:
    try:
        found = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)
