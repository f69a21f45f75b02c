"""What uvicorn and BentoML's worker are relied on for, where this service takes part in serving."""

import inspect

import click
import pytest
import uvicorn
from _bentoml_impl.worker import service as worker
from bentoml.serving import ensure_prometheus_dir
from bentoml_cli.serve import build_serve_command
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.h11_impl import RequestResponseCycle as H11Cycle

from sd_inpaint.http.bento import internals


def test_worker_takes_the_protocol_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """BentoML's worker leaves the protocol to uvicorn, which takes the class that stands in its module then."""
    assert "http=" not in inspect.getsource(worker.main.callback)
    assert HTTP_PROTOCOLS["auto"] == "uvicorn.protocols.http.auto:AutoHTTPProtocol"
    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)

    class Own(H11Protocol):
        """Stands in for the guarded protocol."""

    internals.install_protocol(Own)
    config = uvicorn.Config(lambda scope: None, log_config=None)
    config.load()
    assert config.http_protocol_class is Own


@pytest.mark.parametrize("base", [H11Protocol, internals.httptools_protocol])
def test_protocols_have_what_is_overridden(base: type) -> None:
    """The methods and names of uvicorn's protocols that the guard leans on."""
    assert {"connection_made", "connection_lost", "data_received", "send_400_response"} <= vars(base).keys()
    source = inspect.getsource(inspect.getmodule(base))  # type: ignore[arg-type]  # it has one
    for name in ("self.app = ", "self.cycle", "self.flow", "reset_contextvars", "self.app\n"):
        assert name in source
    for name in ("message_event", "more_body", "disconnected", "response_complete", "self.body", "keep_alive"):
        assert name in inspect.getsource(H11Cycle)
        assert name in source


def test_httptools_stops_where_a_callback_raises() -> None:
    """The parser's callbacks that are overridden are uvicorn's, and what they raise ends the reading."""
    names = {"on_message_begin", "on_header", "on_headers_complete", "on_body", "_start_asgi_task"}
    assert names <= vars(internals.httptools_protocol).keys()
    assert "except httptools.HttpParserError" in inspect.getsource(internals.httptools_protocol.data_received)


def test_contexts_say_what_is_served() -> None:
    """The commands of supervisor and worker have the parameters by which each is known."""
    source = inspect.getsource(build_serve_command)
    assert '@click.argument("bento"' in source
    assert '"--host",\n        type=click.STRING' in source
    names = {parameter.name for parameter in worker.main.params}
    assert "fd" in names
    assert "bento" not in names
    assert internals.listening_host("127.0.0.1") is None
    with click.Context(click.Command("serve")) as context:
        context.params = {"host": None, "bento": "."}
        assert internals.is_supervisor()
        assert internals.listening_host("127.0.0.1") == "127.0.0.1"
        context.params["host"] = "192.0.2.1"
        assert internals.listening_host("127.0.0.1") == "192.0.2.1"


def test_metrics_folder_is_asked_for_late() -> None:
    """BentoML asks for its folder of metrics when it starts the workers, after the service was imported."""
    assert "prometheus_multiproc_dir" in inspect.getsource(ensure_prometheus_dir)
