"""The whole HTTP edge around a painter that needs no model, behind a real socket, for clients that need one."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from sd_inpaint.http.application import Application
from sd_inpaint.settings import Settings
from tests.support import edge
from tests.support.processes import free_port

START_SECONDS = 60.0


class LiveEdge:
    """A served edge.

    Attributes:
        url: Its address.
        painter: The :class:`~tests.support.edge.FakePainter` behind it.
    """

    def __init__(self, url: str, painter: Any) -> None:
        self.url = url
        self.painter = painter


@contextlib.contextmanager
def live_edge(*, painter: Callable[..., Any] = edge.FakePainter, **overrides: Any) -> Iterator[LiveEdge]:
    """Serves the edge with these settings on a port of this machine; one at a time, as :func:`edge.make_app`."""
    settings = Settings(_env_file=None, **{"model": "demo", **overrides})  # type: ignore[call-arg]
    application = Application(settings, make_painter=painter)
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        edge.configure_bentoml(patch)
        app = edge.declare(application).to_asgi()
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            deadline = time.monotonic() + START_SECONDS
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield LiveEdge(f"http://127.0.0.1:{port}", application.painter)
        finally:
            server.should_exit = True
            thread.join(START_SECONDS)
