"""How many bytes are read, and held."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from sd_inpaint.errors import QueueFullError
from sd_inpaint.http.middleware.body_limit import HELD_BODIES, HELD_BODIES_PER_ADDRESS, BodyLimit
from tests.support.edge import INPAINT, ORIGIN, App, check_shape, form, make_app

LIMIT = 20_000


def test_body_up_to_the_limit() -> None:
    """A body of exactly the limit is read; one byte more is not, with a length or without one."""
    with make_app(max_body_bytes=LIMIT) as app:
        request = app.client.build_request("POST", INPAINT, **form())
        content, headers = request.read(), dict(request.headers)
        padded = content + b"\r\n" + b"x" * (LIMIT - len(content) - 2)
        for data, status in [(padded, 200), (padded + b"x", 413), (padded * 5, 413)]:
            whole = app.client.post(INPAINT, content=data, headers={**ORIGIN, "Content-Type": headers["content-type"]})
            pieces = (data[start : start + 1000] for start in range(0, len(data), 1000))
            chunked = app.client.post(
                INPAINT, content=pieces, headers={**ORIGIN, "Content-Type": headers["content-type"]}
            )
            for response in (whole, chunked):
                assert response.status_code == status
                if status == 413:
                    assert check_shape(response, 413, "body_too_large")["max_bytes"] == LIMIT
                    assert response.headers["connection"] == "close"
                    assert response.headers["access-control-allow-origin"] == ORIGIN["Origin"]
        assert app.post().status_code == 200


@pytest.mark.parametrize("length", ["-1", "1e3", "x", "9" * 30])
def test_odd_content_lengths(app: App, length: str) -> None:
    """A length that is none, or larger than any disk, is refused."""
    response = app.client.post(INPAINT, headers={"Content-Length": length}, content=b"")
    assert response.status_code in (400, 413)
    assert response.json()["code"] in ("malformed_body", "body_too_large")


def test_bodies_held_at_once() -> None:
    """Uploads of full size are taken up to a number; one more has to come again; ended ones make room."""
    limit = 1000

    async def run() -> list[str]:
        outcomes: list[str] = []
        go_on = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await go_on.wait()

        async def receive() -> Message:
            return {"type": "http.request", "body": bytes(limit)}

        async def send(message: Message) -> None:
            """Is never called."""

        body_limit = BodyLimit(app, max_bytes=limit)

        async def call() -> None:
            try:
                await body_limit({"type": "http", "headers": []}, receive, send)
                outcomes.append("read")
            except QueueFullError as error:
                outcomes.append(f"busy, {error.retry_after_seconds} s")

        callers = [asyncio.create_task(call()) for _ in range(HELD_BODIES + 1)]
        await asyncio.sleep(0)
        await asyncio.wait(callers, return_when=asyncio.FIRST_COMPLETED)
        go_on.set()
        await asyncio.gather(*callers, call())
        return outcomes

    assert asyncio.run(run()) == ["busy, 5 s", *["read"] * (HELD_BODIES + 1)]


def test_bodies_of_one_address() -> None:
    """One address has its share of the bodies that are held; another's are taken meanwhile."""

    async def run() -> list[str]:
        busy: list[str] = []
        go_on = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await go_on.wait()

        async def receive() -> Message:
            return {"type": "http.request", "body": bytes(1000)}

        async def send(message: Message) -> None:
            """Is never called."""

        body_limit = BodyLimit(app, max_bytes=1000)

        async def call(address: str) -> None:
            try:
                await body_limit({"type": "http", "headers": [], "client": (address, 1)}, receive, send)
            except QueueFullError:
                busy.append(address)

        addresses = ["192.0.2.1"] * (HELD_BODIES_PER_ADDRESS + 1) + ["192.0.2.2"] * HELD_BODIES_PER_ADDRESS
        callers = [asyncio.create_task(call(address)) for address in addresses]
        await asyncio.sleep(0.01)
        go_on.set()
        await asyncio.gather(*callers, call("192.0.2.1"))
        return busy

    assert asyncio.run(run()) == ["192.0.2.1"]


def test_upload_that_takes_too_long(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that does not come in is given up."""
    monkeypatch.setattr("sd_inpaint.http.wire.forms.UPLOAD_SECONDS", 0.05)

    monkeypatch.setattr("starlette.requests.Request.stream", never_streaming)
    check_shape(app.post(), 408, "upload_timeout")


async def never_streaming(request: Any) -> Any:
    """Stands in for Request.stream: a client that has sent its headers and nothing more."""
    await asyncio.sleep(60)
    yield b""
