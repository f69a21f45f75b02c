"""Signals: the jobs end first, then the server."""

import signal
import threading
from collections.abc import Iterator

import pytest

from sd_inpaint.http.bento.draining import SIGNALS, drain_before_exit


class FakeServer:
    """Stands in for uvicorn: notes the signals that reach its own handler."""

    def __init__(self) -> None:
        self.exits: list[int] = []
        self.drains = 0
        self.may_go_on = threading.Event()
        self.exited = threading.Event()

    def handle_exit(self, number: int, frame: object) -> None:
        """Is what uvicorn installs."""
        self.exits.append(number)
        self.exited.set()

    def drain(self) -> None:
        """Waits as long as jobs would run."""
        self.drains += 1
        self.may_go_on.wait(10)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A server whose handlers are installed; the process's own come back at the end."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    fake = FakeServer()
    for number in SIGNALS:
        signal.signal(number, fake.handle_exit)
    drain_before_exit(fake.drain)
    yield fake
    fake.may_go_on.set()
    fake.exited.wait(10)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_jobs_end_before_the_server(server: FakeServer, number: signal.Signals) -> None:
    """The server's own handler runs once the jobs have ended, with the signal that came."""
    signal.raise_signal(number)
    assert server.exits == []
    server.may_go_on.set()
    assert server.exited.wait(10)
    assert (server.exits, server.drains) == ([number], 1)


def test_the_supervisor_s_signal_after_the_terminal_s(server: FakeServer) -> None:
    """Ctrl+C reaches a worker twice, once as SIGTERM from the supervisor: that is one wish to stop, not two."""
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    assert server.exits == []
    server.may_go_on.set()
    assert server.exited.wait(10)
    assert (server.exits, server.drains) == ([signal.SIGINT], 1)


def test_ctrl_c_twice(server: FakeServer) -> None:
    """Who asks again does not want to wait."""
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    assert server.exits == [signal.SIGINT]


def test_outside_of_the_main_thread() -> None:
    """Where signals cannot be handled, nothing is changed and nothing breaks."""
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=drain_before_exit, args=(lambda: None,))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
