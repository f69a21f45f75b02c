"""Who asks for the metrics, and how often they are read."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from sd_inpaint.http.middleware.shared_metrics import SharedMetrics
from tests.support.simulation import Clock

SECONDS = 0.02


def test_a_flood_reads_them_once() -> None:
    """For ten times as long as a reading took, everybody gets that one; other paths are left alone."""
    clock, reads = Clock(), []

    async def read(request: Request) -> Response:
        clock.now += SECONDS
        reads.append(request.url.path)
        return PlainTextResponse(str(len(reads)))

    app = Starlette(
        routes=[Route("/metrics", read), Route("/other", read)],
        middleware=[Middleware(SharedMetrics, clock=clock)],
    )
    client = TestClient(app)
    assert [client.get("/metrics").text for _ in range(5)] == ["1"] * 5
    clock.now += 9.5 * SECONDS
    assert client.get("/metrics").text == "1"
    assert client.get("/other").text == "2"
    assert client.get("/metrics").text == "3"
    assert client.get("/metrics").headers["content-type"] == "text/plain; charset=utf-8"
