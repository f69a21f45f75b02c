"""A running service, asked from outside."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sd_inpaint.diagnosis.finding import Finding, State
from sd_inpaint.diagnosis.server import check_server
from sd_inpaint.engine.lifecycle import EngineState
from tests.support.live_edge import LiveEdge, live_edge
from tests.support.processes import free_port

KEY = "der-richtige-schlüssel"


@pytest.fixture(scope="module")
def served() -> Iterator[LiveEdge]:
    """A service that needs a key."""
    with live_edge(api_keys=KEY) as made:
        yield made


def states(findings: list[Finding]) -> dict[str, State]:
    """The state of each subject."""
    return {finding.subject: finding.state for finding in findings}


def test_right_key(served: LiveEdge) -> None:
    """With a good key everything is good."""
    assert set(states(check_server(served.url, KEY)).values()) == {State.GOOD}


@pytest.mark.parametrize(
    ("key", "words"), [("a-wrong-key", "does not know the API key"), (None, "needs an API key, and none was given")]
)
def test_wrong_key(served: LiveEdge, key: str | None, words: str) -> None:
    """A wrong key, and none, are problems of the key and not of the server; the key is not shown."""
    server, found = check_server(served.url + "/", key)
    assert (server.state, found.state) == (State.GOOD, State.PROBLEM)
    assert words in found.sentence
    assert "SD_INPAINT_KEY" in str(found.remedy)
    assert "a-wrong-key" not in found.sentence


def test_service_that_loads(served: LiveEdge) -> None:
    """A service that still loads is a problem whose remedy is to wait."""
    served.painter.engine.state = EngineState.LOADING
    try:
        found = check_server(served.url, KEY)[0]
    finally:
        served.painter.engine.state = EngineState.READY
    assert found.state is State.PROBLEM
    assert "Wait" in str(found.remedy)


def test_nothing_answers() -> None:
    """An address where nothing listens is a problem, told with the system's reason."""
    (found,) = check_server(f"http://127.0.0.1:{free_port()}", None)
    assert found.state is State.PROBLEM
    assert "Connection refused" in found.sentence


def test_another_program_answers() -> None:
    """What is no such service is said to be another program."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.handle_request, daemon=True).start()
        (found,) = check_server(f"http://127.0.0.1:{other.server_port}", None)
    assert found.state is State.PROBLEM
    assert "another program" in found.sentence


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", "https://"])
def test_no_address(url: str) -> None:
    """What is no address of a server is not asked."""
    (found,) = check_server(url, None)
    assert found.state is State.PROBLEM
    assert "not an address" in found.sentence


def test_port_that_is_none() -> None:
    """A slip in the address is a finding, and no traceback."""
    (found,) = check_server("http://localhost:80a", None)
    assert found.state is State.PROBLEM
