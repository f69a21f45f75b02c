"""What BentoML is relied on for, beyond what it promises; its version is pinned because of this list."""

import inspect

import attrs
import bentoml
import click
import pytest
import uvicorn
from _bentoml_impl.client.http import HTTPClient
from _bentoml_impl.server.app import ServiceAppFactory
from _bentoml_impl.worker import service as worker
from bentoml._internal.server.http.instruments import RunnerTrafficMetricsMiddleware
from bentoml.serving import ensure_prometheus_dir
from bentoml_cli.serve import build_serve_command
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.h11_impl import RequestResponseCycle as H11Cycle

from sd_inpaint.http.application import Application
from sd_inpaint.http.bento import internals
from sd_inpaint.http.bento.internals import OpenAPISpecification, PathItem, Schema, TimeoutMiddleware
from tests.support.edge import make_app
from tests.support.repository import ROOT, imported_modules

INTERNALS = ROOT / "src" / "sd_inpaint" / "http" / "bento" / "internals.py"


def test_bentoml_is_what_this_edge_was_built_on() -> None:
    """Read in BentoML 1.4.39: an upgrade that changes one of these needs a look at http/ and docs/why.md."""
    endpoint = inspect.getsource(ServiceAppFactory.api_endpoint)
    assert "await method.input_spec.from_http_request(request, serde)" in endpoint
    assert "call_kwargs = {k: getattr(input_data, k) for k in input_data.model_fields}" in endpoint
    assert "if isinstance(output, Response):" in endpoint
    assert 'methods=["POST"]' in inspect.getsource(ServiceAppFactory.routes.fget)
    assert '"User-Agent": f"BentoML HTTP Client/' in inspect.getsource(HTTPClient.__init__)
    assert "data[name] = json.dumps(value)" in inspect.getsource(HTTPClient._build_multipart)
    assert "await waiter" in inspect.getsource(TimeoutMiddleware.__call__)
    assert 'endpoint = scope["path"]' in inspect.getsource(RunnerTrafficMetricsMiddleware.__call__)


def test_timeout_is_among_bentomls_own_middleware(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class that is taken out is the one that BentoML puts in: else its time-out would come back in silence."""
    monkeypatch.setattr(Application, "surround", lambda application, app: app)
    with make_app() as made:
        assert TimeoutMiddleware in [middleware.cls for middleware in made.client.app.user_middleware]


def test_openapi_description_is_made_of_classes_that_can_be_changed() -> None:
    """The description is a property of BentoML's service, and its parts have the fields that are corrected."""
    assert isinstance(inspect.getattr_static(bentoml.Service, "openapi_spec"), property)
    for part, corrected in (
        (OpenAPISpecification, {"paths", "components"}),
        (PathItem, {"get", "post", "delete"}),
        (Schema, {"type", "description", "properties", "enum", "required"}),
    ):
        assert corrected <= {field.name for field in attrs.fields(part)}, part


def test_private_modules_are_imported_in_one_place() -> None:
    """Whoever upgrades BentoML looks into one module for what is private, and into this one for what it must be."""
    private = {
        path: sorted(name for name in imported_modules(path) if name.startswith(("bentoml._", "_bentoml")))
        for path in (ROOT / "service.py", *(ROOT / "src").rglob("*.py"))
    }
    assert [path for path, names in private.items() if names] == [INTERNALS]
    assert all(name.startswith("bentoml._internal.") for name in private[INTERNALS])


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
