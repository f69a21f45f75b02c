"""A server that nobody meant to open stays closed, and says whom it serves."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sd_inpaint.errors import SettingsError
from sd_inpaint.http.bento.address import check_address, is_loopback
from sd_inpaint.http.middleware.client_address import Proxies, caller_at, client_address
from sd_inpaint.settings import Settings
from tests.support.processes import free_port
from tests.support.repository import ROOT
from tests.support.served import Server

ANYWHERE = "0.0.0.0"  # noqa: S104 - the address that must be refused

LOG_SECONDS = 30.0
"""Until a line of the log is there; most of it is for a busy machine."""


@pytest.mark.parametrize(
    ("host", "settings", "is_refused"),
    [
        ("127.0.0.1", {}, False),
        ("::1", {}, False),
        ("127.8.0.1", {}, False),
        (None, {}, False),
        (ANYWHERE, {}, True),
        ("::", {}, True),
        ("192.168.1.5", {}, True),
        (ANYWHERE, {"api_keys": ("k",)}, False),
        (ANYWHERE, {"allow_open": True}, False),
    ],
)
def test_public_addresses_need_keys(host: str | None, settings: dict[str, object], is_refused: bool) -> None:
    """Where other machines reach the server, it needs keys or the operator's word; the message says both."""
    made = Settings(_env_file=None, **settings)  # type: ignore[call-arg, arg-type]  # added at run time
    with pytest.raises(SettingsError, match="SD_INPAINT_ALLOW_OPEN") if is_refused else contextlib.nullcontext():
        check_address(host, made)
    assert host is None or is_loopback(host) == host.startswith(("127.", "::1"))


@pytest.mark.parametrize(
    ("host", "caller"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::1", "::1"),
        ("not an address", "not an address"),
    ],
)
def test_one_caller_is_one_address(host: str, caller: str) -> None:
    """IPv6 gives each line as many addresses as it likes, so they count as one; no address is an error."""
    assert caller_at(host) == client_address({"type": "http", "client": (host, 1)}) == caller
    assert client_address({"type": "http", "client": None}) == ""


def test_proxies_are_networks() -> None:
    """A proxy is named by its address or its network; everything else is none."""
    proxies = Proxies(["10.0.0.0/8", "192.0.2.1", "fd00::/8"])
    assert all(host in proxies for host in ("10.9.8.7", "192.0.2.1", "fd12::1"))
    assert not any(host in proxies for host in ("192.0.2.2", "::1", "", "name"))


def serve(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs ``bentoml serve``, which is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "bentoml", "serve", "service:SDInpaint", "--port", str(free_port()), *arguments],
        cwd=ROOT,
        env={**os.environ, "SD_INPAINT_MODEL": "demo", **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_open_door_is_refused_at_start() -> None:
    """``--host 0.0.0.0`` without keys ends at once, with one sentence that says what to set."""
    done = serve("--host", ANYWHERE)
    assert done.returncode == 1
    assert "Every machine that reaches 0.0.0.0 could use this server" in done.stderr
    assert "Traceback" not in done.stderr
    assert serve(SD_INPAINT_HOST=ANYWHERE).returncode == 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real one, with a login shell's limit of open files and a time-out that tests can wait for."""
    limit = ("prlimit", "--nofile=1024:1024")
    folder = tmp_path_factory.mktemp("served")
    settings = {"SD_INPAINT_HEADER_SECONDS": "2", "BENTOML_HOME": str(folder / "home")}
    made = Server(folder / "serve.log", within=limit, **settings)
    try:
        made.wait()
        yield made
    finally:
        made.stop()


def test_log_says_who_can_call(server: Server) -> None:
    """The log has the address that is really served, and whether a key is needed."""
    assert "Listening on 127.0.0.1: programs on this machine can call, without an API key." in server.log.read_text()


def test_half_headers_under_a_login_shell_s_limit(server: Server) -> None:
    """1,020 half headers with 1,024 files to open: others are served, and all are closed after their time."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    with contextlib.ExitStack() as stack:
        half = []
        for _ in range(1020):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            connection.sendall(b"POST /sd-inpaint/inpaint HTTP/1.1\r\nHost: localhost\r\nX-Wait: ")
            half.append(connection)
        started = time.monotonic()
        assert httpx.get(server.url + "/sd-inpaint/health", timeout=10).status_code == 200
        assert time.monotonic() - started < 2.0
        for connection in half:
            with contextlib.suppress(ConnectionError):
                assert connection.recv(4096)[:12] in (b"", b"HTTP/1.1 408", b"HTTP/1.1 429")
    assert httpx.get(server.url + "/sd-inpaint/health").status_code == 200
    assert "too many open files" not in server.log.read_text().lower()


def test_forwarded_addresses_of_strangers_do_not_count(server: Server) -> None:
    """A caller cannot have itself counted as another one by X-Forwarded-For, also from this machine."""
    uploads = [
        httpx.post(server.url + "/sd-inpaint/inpaint", headers={"X-Forwarded-For": f"192.0.2.{n}"}) for n in range(3)
    ]
    assert {upload.status_code for upload in uploads} == {415}


def test_log_lines_carry_no_other_request_s_trace(server: Server) -> None:
    """Requests of one kept-alive connection do not share a trace in the log."""
    with httpx.Client(base_url=server.url) as client:
        ids = [client.get("/nothing").headers["x-request-id"] for _ in range(3)]
        client.post("/sd-inpaint/health")
        ids += [client.get("/nothing").headers["x-request-id"] for _ in range(3)]

    def lines_of_ids() -> list[str]:
        return [line for line in server.log.read_text().splitlines() if any(one in line for one in ids)]

    # A line is written after the answer, when the client may be here already.
    until = time.monotonic() + LOG_SECONDS
    while len(lines := lines_of_ids()) < len(ids) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(lines) == len(ids)
    traces = [line.partition("(trace=")[2][:32] for line in lines]
    assert all(not trace or traces.count(trace) == 1 for trace in traces)


def test_servers_of_one_user_keep_their_metrics_apart(server: Server, tmp_path: Path) -> None:
    """A second server neither empties the first one's metrics nor adds to them; the dead leave nothing behind."""

    def ended() -> str:
        text = httpx.get(server.url + "/metrics").text
        return "".join(line for line in text.splitlines() if line.startswith("bentoml_service_request_total"))

    httpx.post(server.url + "/sd-inpaint/health")
    before = ended()
    assert before
    home = str(server.log.parent / "home")
    second = Server(tmp_path / "serve.log", BENTOML_HOME=home)
    try:
        second.wait()
        assert ended().count("{") >= before.count("{")
        folders = Path(home) / "sd_inpaint_metrics"
        assert len(list(folders.iterdir())) == 2
    finally:
        second.stop()
    third = Server(tmp_path / "third.log", BENTOML_HOME=home)
    try:
        third.wait()
        assert len(list(folders.iterdir())) == 2
    finally:
        third.stop()
