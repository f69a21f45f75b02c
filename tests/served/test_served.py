"""What only a running server shows: loads of callers, uploads without an end, callers who leave, start and stop."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import requests
from PIL import Image

from tests.support.edge import HEALTH, INPAINT, LIGHT, check_shape, form
from tests.support.pictures import hole, opened, photo, written
from tests.support.repository import ROOT
from tests.support.served import LARGE, SERVER_BODY_BYTES, Server, connection, long_request

MULTIPART = "multipart/form-data; boundary=x"


def post(server: Server, **changes: str | bytes) -> httpx.Response:
    """Posts a request to a server."""
    return httpx.post(server.url + INPAINT, timeout=300, **form(**changes))


def read_to_end(sock: socket.socket) -> bytes:
    """Returns what the server sends until it closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65536):
            received += data
    return received


@pytest.mark.contract
def test_seed_decides_the_bytes_and_black_is_kept(server: Server) -> None:
    """Same seed, same bytes; other seed, other picture; black-mask pixels are the input's."""
    first, again, other = (post(server, seed=seed) for seed in ("1", "1", "2"))
    assert first.status_code == 200
    assert first.content == again.content
    pixels, others, kept = opened(first.content), opened(other.content), np.asarray(hole()) == 0
    assert (pixels[kept] == np.asarray(photo())[kept]).all()
    assert (pixels[~kept] != others[~kept]).any()


@pytest.mark.contract
@pytest.mark.parametrize("callers", [2, 20])
def test_callers_at_once(server: Server, callers: int) -> None:
    """However many call at once, each gets the bytes that it would get alone."""
    alone = [post(server, seed=str(seed), **LIGHT).content for seed in range(2)]
    with ThreadPoolExecutor(callers) as pool:
        together = list(pool.map(lambda number: post(server, seed=str(number % 2), **LIGHT), range(callers)))
    assert {answer.status_code for answer in together} == {200}
    assert [answer.content for answer in together] == [alone[number % 2] for number in range(callers)]


def test_health_while_the_device_is_busy(server: Server) -> None:
    """Health and readyz answer at once while the model works."""
    # One client: to make one takes longer than what is measured here.
    with ThreadPoolExecutor(2) as pool, httpx.Client(base_url=server.url, timeout=60) as client:
        painting = pool.submit(post, server, **{**long_request(), "num_inference_steps": "20"})
        times = []
        while not painting.done():
            for path in (HEALTH, "/readyz"):
                started = time.monotonic()
                assert client.get(path).status_code == 200
                times.append(time.monotonic() - started)
            time.sleep(0.02)
        assert painting.result().status_code == 200
    # The median: one of many may meet a machine that is busy with something else.
    assert sorted(times)[len(times) // 2] < 0.1


def test_caller_who_leaves_frees_the_device(server: Server) -> None:
    """A caller who hangs up is not painted for: the next request does not wait for 150 steps."""
    with httpx.Client(base_url=server.url) as client:
        request = client.build_request("POST", INPAINT, **form(**long_request()))
        body = request.read()
    head = f"Content-Type: {request.headers['content-type']}\r\nContent-Length: {len(body)}\r\nX-Request-ID: leaver"
    with connection(server, head) as sock:
        sock.sendall(body)
        time.sleep(0.5)
    assert post(server, num_inference_steps="1").status_code == 200
    deadline = time.monotonic() + 30
    while f"leaver POST {INPAINT} 499" not in server.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_caller_who_leaves_a_stream_frees_the_device(server: Server) -> None:
    """So is one who hangs up on OpenAI's stream, of which the head was sent already."""
    mask = Image.new("RGBA", LARGE, (0, 0, 0, 0))
    with (
        httpx.Client(base_url=server.url, timeout=60) as client,
        client.stream(
            "POST",
            "/v1/images/edits",
            files={"image": written(photo(LARGE)), "mask": written(mask)},
            data={"prompt": "a rose", "stream": "true", "partial_images": "3", "num_inference_steps": "150"},
        ) as response,
    ):
        assert next(response.iter_lines()) == "event: image_edit.partial_image"
    with httpx.Client(base_url=server.url, timeout=60) as client:
        deadline = time.monotonic() + 30
        while client.get("/sd-inpaint/info").json()["queue"]["jobs"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert post(server, num_inference_steps="1").status_code == 200
    assert "Traceback" not in server.log.read_text()


def test_caller_who_leaves_in_the_middle_of_the_upload(server: Server) -> None:
    """Half a body and a closed connection is nobody's error."""
    with connection(server, f"Content-Type: {MULTIPART}\r\nContent-Length: 1000\r\nX-Request-ID: half") as sock:
        sock.sendall(b"--x\r\n")
        time.sleep(0.2)
    deadline = time.monotonic() + 30
    while f"half POST {INPAINT} 499" not in server.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "Traceback" not in server.log.read_text()


@pytest.mark.contract
def test_upload_without_an_end(server: Server) -> None:
    """A chunked body is refused when it passes the limit, while the client still sends; the connection is closed."""
    sent = 0
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    with connection(server, f"Content-Type: {MULTIPART}\r\nTransfer-Encoding: chunked") as sock:
        sock.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
            while sent < 100 * SERVER_BODY_BYTES:
                sock.sendall(chunk)
                sent += 65536
                sock.settimeout(0.001)
                with contextlib.suppress(TimeoutError, BlockingIOError):
                    answer = sock.recv(65536, socket.MSG_PEEK)
                    if answer:
                        break
                sock.settimeout(60)
        sock.settimeout(60)
        received = read_to_end(sock)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"body_too_large"' in received
    assert b"connection: close" in received.lower()
    assert SERVER_BODY_BYTES < sent + len(part) < 5 * SERVER_BODY_BYTES
    assert post(server).status_code == 200


@pytest.mark.contract
def test_client_that_asks_first_sends_nothing(server: Server) -> None:
    """With Expect: 100-continue, as curl does, a body that is too large is refused before any of it is sent."""
    head = f"Content-Type: {MULTIPART}\r\nContent-Length: {SERVER_BODY_BYTES + 1}\r\nExpect: 100-continue"
    with connection(server, head) as sock:
        received = read_to_end(sock)
    assert received.startswith(b"HTTP/1.1 413 ")


@pytest.mark.contract
def test_clients_that_ask_nothing_get_the_answer(server: Server) -> None:
    """A client that sends all of its body before it reads gets a 413, and not a broken connection."""
    large = bytes(SERVER_BODY_BYTES * 3)
    check_shape(requests.post(server.url + INPAINT, files={"image": large}, timeout=60), 413, "body_too_large")
    check_shape(httpx.post(server.url + INPAINT, files={"image": large}, timeout=60), 413, "body_too_large")


@pytest.mark.contract
def test_metrics_know_only_paths_that_are_served(server: Server) -> None:
    """A scan for holes leaves nothing in the metrics; what is served is counted."""
    for path in ("/admin.php", "/sd-inpaint/secret", "/static_content/secret", "/sd-inpaint/inpaint/secret"):
        assert httpx.get(server.url + path).status_code == 404
    assert post(server).status_code == 200
    metrics = httpx.get(server.url + "/metrics").text
    assert "secret" not in metrics
    assert "admin" not in metrics
    assert 'endpoint="/sd-inpaint/inpaint",http_response_code="200"' in metrics


@pytest.mark.parametrize(
    "setting",
    [{"SD_INPAINT_DEVICE": "abacus"}, {"SD_INPAINT_MAX_PIXELS": "many"}, {"SD_INPAINT_STEPS": "5"}],
    ids=lambda setting: next(iter(setting)),
)
def test_wrong_setting_stops_the_start(setting: dict[str, str]) -> None:
    """``bentoml serve`` ends at once, with one line that names the setting."""
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve", "service:SDInpaint"],
        cwd=ROOT,
        env={**os.environ, **setting},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    lines = (done.stdout + done.stderr).strip().splitlines()
    assert len(lines) == 1
    assert next(iter(setting)) in lines[0]


def test_server_without_a_model(tmp_path: Path) -> None:
    """LOAD_SD_INPAINT=false serves health and errors, and stops at once with exit code 0."""
    server = Server(tmp_path / "serve.log", LOAD_SD_INPAINT="false")
    try:
        assert check_shape(server.wait(status=503), 503, "model_disabled")["status"] == "disabled"
        assert httpx.get(server.url + "/readyz").status_code == 503
        check_shape(post(server), 503, "model_disabled")
    finally:
        code = server.stop()
    assert code == 0


def test_server_whose_weights_are_missing(tmp_path: Path) -> None:
    """A model that is not there leaves a server that says so, with the reason."""
    server = Server(tmp_path / "serve.log", SD_INPAINT_MODEL=str(tmp_path / "nothing"), SD_INPAINT_OFFLINE="true")
    try:
        server.wait(status=503)
        deadline = time.monotonic() + 120
        while (body := httpx.get(server.url + HEALTH).json())["status"] == "loading":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert body["status"] == "failed"
        assert body["code"] == "model_failed"
        assert body["reason"]
    finally:
        server.stop()


def test_stop_lets_running_requests_end(tmp_path: Path) -> None:
    """From its first second the server answers; on SIGTERM it takes nothing new, ends what runs, and exits with 0."""
    server = Server(tmp_path / "serve.log")
    try:
        server.wait("/livez")
        first = httpx.get(server.url + HEALTH)
        assert first.json()["status"] in ("loading", "healthy")
        server.wait()
        with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.url, timeout=60) as client:
            painting = pool.submit(post, server, **{**long_request(), "num_inference_steps": "30"})
            time.sleep(1.0)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            stopping = client.get(HEALTH)
            refused = client.post(INPAINT, **form())
            assert painting.result().status_code == 200
        assert stopping.json()["status"] == "stopping"
        check_shape(refused, 503, "shutting_down")
        assert refused.headers["retry-after"] == "10"
    finally:
        code = server.stop()
    assert code == 0
