"""Connections that stall, flood, or come in numbers, on both of the parsers that may serve."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from sd_inpaint.http.bento import exchange, protocol
from sd_inpaint.http.middleware import unread_body
from tests.support.guarded import Guarded, guarded, read_answer

HALF_HEADER = b"POST /read HTTP/1.1\r\nHost: a\r\nX-Wait: "

CHUNKED = b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

LAST_CHUNKED = CHUNKED.replace(b"Host", b"Connection: close\r\nHost")
"""The server closes the connection after its answer, so that the test need not wait."""


@pytest.fixture(params=["httptools", "h11"])
def served(request: pytest.FixtureRequest) -> Iterator[Guarded]:
    """The protocol over each parser."""
    if request.param == "httptools" and protocol.httptools_protocol is None:
        pytest.skip("httptools is not installed")
    with guarded(use_h11=request.param == "h11") as made:
        yield made


def test_half_a_header_is_not_waited_for(served: Guarded) -> None:
    """Half a request header is answered 408 after its time, and the connection closed."""
    started = time.monotonic()
    answer = served.ask(HALF_HEADER)
    assert (answer.status, answer.code) == (408, "upload_timeout")
    assert 0.9 < time.monotonic() - started < 4


def test_header_that_trickles_is_not_waited_for(served: Guarded) -> None:
    """A byte every now and then does not win more time, on a connection's first request nor on a later one."""
    with served.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - started < 6:
                connection.sendall(HALF_HEADER[:1] if time.monotonic() - started < 0.1 else b"A")
                time.sleep(0.2)
        assert time.monotonic() - started < 4


def test_silent_connection_is_closed(served: Guarded) -> None:
    """A connection on which nothing comes is closed without a word."""
    started = time.monotonic()
    assert served.ask(b"").raw == b""
    assert time.monotonic() - started < 4


def test_half_headers_do_not_keep_others_out(served: Guarded) -> None:
    """More half headers than connections are allowed: the oldest of them make room, for the next caller too."""
    with contextlib.ExitStack() as stack:
        for _ in range(served.connections.limits.per_address + 30):
            stack.enter_context(served.connect()).sendall(HALF_HEADER)
        assert served.seconds() < 1
        assert len(served.connections) <= served.connections.limits.per_address


def test_connections_in_use_are_not_taken_away(served: Guarded) -> None:
    """Where every connection has a request, one more is answered 429, and the others go on."""
    with contextlib.ExitStack() as stack:
        holding = [stack.enter_context(served.connect()) for _ in range(served.connections.limits.per_address)]
        for connection in holding:
            connection.sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.3)
        answer = served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (answer.status, answer.code) == (429, "too_many_connections")
        assert b"retry-after: 5" in answer.raw
        holding[0].close()
        time.sleep(0.3)
        assert served.seconds() < 1


@pytest.mark.parametrize("path", [b"/read", b"/refused"])
def test_chunks_of_one_byte(served: Guarded, path: bytes) -> None:
    """A flood of 1-byte chunks, read or refused, ends after some thousand, and meanwhile others are served."""
    flood = b"1\r\nx\r\n" * 20_000
    stop = time.monotonic() + 3

    def attack() -> None:
        while time.monotonic() < stop:
            with contextlib.suppress(OSError), served.connect() as connection:
                connection.sendall(CHUNKED % path)
                while time.monotonic() < stop:
                    connection.sendall(flood)

    attackers = [threading.Thread(target=attack) for _ in range(4)]
    for attacker in attackers:
        attacker.start()
    waits = []
    while time.monotonic() < stop:
        waits.append(served.seconds())
        time.sleep(0.05)
    for attacker in attackers:
        attacker.join()
    assert sorted(waits)[len(waits) // 2] < 0.5
    assert max(waits) < 2.0


@pytest.mark.parametrize("path", [b"/read", b"/hold"])
def test_a_body_of_small_chunks_is_refused(served: Guarded, path: bytes) -> None:
    """Some thousand 1-byte chunks are a 400, whether they come to an end or not, and the connection is closed."""
    chunks = b"1\r\nx\r\n" * (protocol.MANY_CHUNKS + 1)
    answer = served.ask(CHUNKED % path + chunks + (b"0\r\n\r\n" if path == b"/read" else b""))
    assert (answer.status, answer.code) == (400, "malformed_body")


def test_small_chunks_of_a_small_body(served: Guarded) -> None:
    """A small body may come in chunks as small as its sender likes, and a large one in chunks of a line."""
    small = b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n"
    assert served.ask(LAST_CHUNKED % b"/read" + small).raw.endswith(b"\r\n\r\n1000")
    lines = b"14\r\n12345678901234567890\r\n" * 20_000 + b"0\r\n\r\n"
    assert served.ask(LAST_CHUNKED % b"/read" + lines).raw.endswith(b"\r\n\r\n400000")


def test_refused_body_without_end_is_not_read_for_ever(served: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a refusal, what is still sent is read for a moment only."""
    monkeypatch.setattr(unread_body, "LINGER_SECONDS", 0.5)
    piece = b"10000\r\n" + bytes(65_536) + b"\r\n"
    started = time.monotonic()
    with served.connect() as connection:
        connection.sendall(CHUNKED % b"/refused")
        with contextlib.suppress(OSError):
            while time.monotonic() - started < 8:
                connection.sendall(piece)
        assert time.monotonic() - started < 4


def test_refusal_reaches_a_client_that_still_sends(served: Guarded) -> None:
    """A client that sends all of a large body before it reads gets the refusal, and no reset."""
    body = bytes(8_000_000)
    with served.connect() as connection:
        connection.sendall(b"POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
        time.sleep(0.1)
        connection.sendall(body)
        answer = read_answer(connection)
    assert answer.status == 401
    assert b"connection: close" in answer.raw.lower()


def test_small_refused_body_keeps_its_connection(served: Guarded) -> None:
    """Where the body has arrived whole, the connection goes on to the next request."""
    with served.connect() as connection:
        for _ in range(2):
            connection.sendall(b"POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
            answer = b""
            while not answer.endswith(b"{}"):
                answer += connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 401")
            assert b"close" not in answer


def test_body_that_stalls(served: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body slower than the least rate is answered 408; one that is fast enough is read, however long it takes."""
    monkeypatch.setattr(exchange, "RATE_SECONDS", 1.0)
    started = time.monotonic()
    slow = served.ask(b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc")
    assert (slow.status, slow.code) == (408, "upload_timeout")
    assert time.monotonic() - started < 6
    with served.connect() as connection:
        connection.sendall(b"POST /read HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 16000\r\n\r\n")
        for _ in range(16):
            connection.sendall(bytes(1000))
            time.sleep(0.25)
        assert read_answer(connection).status == 200


def test_client_that_reads_nothing(served: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that nobody takes is not kept for ever: the connection is ended."""
    monkeypatch.setattr(protocol, "STALLED_SECONDS", 1.0)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", served.port))
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        deadline = time.monotonic() + 8
        while len(served.connections) != 1:
            time.sleep(0.05)
        while len(served.connections) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(served.connections) == 0


@pytest.mark.parametrize("behind", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3, b"garbage" * 100, b"x" * 50_000])
def test_leaving_is_noticed(served: Guarded, behind: bytes) -> None:
    """A caller who leaves is noticed, also where bytes lie behind the request."""
    with served.connect() as connection:
        connection.sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.2)
        connection.sendall(behind)
        time.sleep(0.2)
        assert served.left == 0
    deadline = time.monotonic() + 5
    while not served.left and time.monotonic() < deadline:
        time.sleep(0.02)
    assert served.left == 1


def test_many_pipelined_bytes_end_the_connection(served: Guarded) -> None:
    """More than a little behind a request that is not answered yet is not kept."""
    with served.connect() as connection:
        connection.sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.1)
        with contextlib.suppress(OSError):
            for _ in range(20):
                connection.sendall(b"POST /read HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + bytes(20_000))
                time.sleep(0.02)
        deadline = time.monotonic() + 5
        while not served.left and time.monotonic() < deadline:
            time.sleep(0.02)
        assert served.left == 1


def test_pipelined_requests_are_answered_in_order(served: Guarded) -> None:
    """A few requests at once, as RFC 9112 allows them, get as many answers."""
    answer = served.ask(
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 4 + b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    assert (answer.status, answer.responses) == (200, 5)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),
        (b"BREW /pot HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-Long: " + b"a" * 200_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 40_000 + b"\r\n", 431),
        (CHUNKED % b"/read" + b"zz\r\n", 400),
    ],
    ids=["two lengths", "TLS", "unknown method", "long header", "many headers", "no chunk"],
)
def test_what_is_not_a_request(served: Guarded, request_bytes: bytes, status: int) -> None:
    """What is not HTTP, or too much of it, gets an error in this service's shape, and the connection is closed."""
    answer = served.ask(request_bytes)
    if status == 405 and answer.status == 401:
        pytest.skip("h11 takes any method, and the application answers")
    assert answer.status == status
    assert answer.code in ("malformed_body", "method_not_allowed")
    assert answer.responses == 1
    assert served.seconds() < 1


def test_trailers_do_not_become_headers(served: Guarded) -> None:
    """A field behind a chunked body cannot pose as one of the header's."""
    answer = served.ask(LAST_CHUNKED % b"/read" + b"1\r\nx\r\n0\r\nX-API-Key: k\r\n\r\n")
    assert answer.status == 200
