"""SIGTERM and SIGINT: first the jobs end, then the server does."""

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType

logger = logging.getLogger("bentoml.sd_inpaint.http")

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def drain_before_exit(drain: Callable[[], None]) -> None:
    """Has the first such signal run ``drain`` in a thread, and the server's own handler go after it.

    Until then the server answers: health says that it is stopping, so that no new requests are sent here, and those
    that come are refused with Retry-After. Ctrl+C once more ends the server at once; SIGTERM once more does not, since
    BentoML's supervisor sends one to a worker that has had the terminal's own signal already. Does nothing outside of
    the main thread, where signals cannot be handled.
    """
    if threading.current_thread() is threading.main_thread():
        _Draining(drain)


class _Draining:
    def __init__(self, drain: Callable[[], None]) -> None:
        self._drain = drain
        self._started = False
        self._next = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._started:
            self._started = True
            threading.Thread(target=self._drain_then_exit, args=(number,), name="drain").start()
        elif number == signal.SIGINT:
            self._exit(number)

    def _drain_then_exit(self, number: int) -> None:
        logger.info("Shutting down: new requests are refused, running ones may finish.")
        try:
            self._drain()
        finally:
            self._exit(number)

    def _exit(self, number: int) -> None:
        handler = self._next[signal.Signals(number)]
        if callable(handler):
            handler(number, None)
