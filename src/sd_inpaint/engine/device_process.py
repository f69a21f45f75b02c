"""A process that owns one device: ``python -m sd_inpaint.engine.device_process DESCRIPTOR``.

It holds a backend of its own and makes the calls that :mod:`~sd_inpaint.engine.remote_backend` sends, one at a time. A
card with a process of its own never waits for another card's Python, and takes nothing else along when it dies. It ends
with its server.

A message from the server is ``(name, arguments, named)``, a method of
:class:`~sd_inpaint.engine.device_calls.DeviceCalls`; an answer comes after any number of log records.
"""

import contextlib
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from typing import Any

from sd_inpaint.engine.device_calls import Answer, DeviceCalls


class _ToServer(QueueHandler):
    """Has the server log what is logged here, in its own form."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        super().__init__(connection)  # type: ignore[arg-type]  # only enqueue uses it

    def enqueue(self, record: logging.LogRecord) -> None:
        """Sends one record."""
        # A server that is gone hears nothing.
        with contextlib.suppress(OSError):
            self.queue.send(record)  # type: ignore[attr-defined]  # a connection


def main() -> None:
    """Serves calls until the server is gone."""
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    # They reach a whole group of processes, and the server may still drain.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_server, args=(connection.fileno(),), daemon=True).start()
    records = _ToServer(connection)
    logging.getLogger().handlers[:] = [records]
    logging.getLogger("bentoml").setLevel(os.environ.get("SD_INPAINT_LOG_LEVEL", "info").upper())
    calls = DeviceCalls()
    with contextlib.suppress(EOFError, OSError):
        while True:
            name, arguments, named = connection.recv()
            answer = _answer(calls, getattr(calls, name), arguments, named)
            # What another thread logs must not come in between.
            with records.lock:  # type: ignore[union-attr]  # a handler has one
                connection.send(answer)


def _end_with_server(descriptor: int) -> None:
    """Ends the process when its server is gone, in the middle of a step or of loading too."""
    poll = select.poll()
    poll.register(descriptor, select.POLLHUP)
    poll.poll()
    os._exit(0)


def _answer(calls: DeviceCalls, call: Callable[..., Any], arguments: Sequence[Any], named: dict[str, Any]) -> Answer:
    try:
        return calls.answer(call(*arguments, **named), None)
    except Exception as error:  # noqa: BLE001  # the server raises it
        error.__cause__ = error.__context__ = None
        return calls.answer(None, error.with_traceback(None))


if __name__ == "__main__":
    main()
