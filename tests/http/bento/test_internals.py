"""What BentoML is relied on for, beyond what it promises; its version is pinned because of this list."""

import inspect

import attrs
import bentoml
import pytest
from _bentoml_impl.client.http import HTTPClient
from _bentoml_impl.server.app import ServiceAppFactory
from bentoml._internal.server.http.instruments import RunnerTrafficMetricsMiddleware

from sd_inpaint.http.application import Application
from sd_inpaint.http.bento.internals import (
    Info,
    OpenAPISpecification,
    OpenTelemetryMiddleware,
    PathItem,
    TimeoutMiddleware,
)
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


def test_what_is_taken_out_is_among_bentomls_own_middleware(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes that are taken out are those that BentoML puts in: else they would come back in silence."""
    with monkeypatch.context() as patch:
        patch.setattr(Application, "surround", lambda application, app: app)
        with make_app() as made:
            classes = [middleware.cls for middleware in made.client.app.user_middleware]
    assert {TimeoutMiddleware, OpenTelemetryMiddleware} <= set(classes)
    with make_app() as made:
        classes = [middleware.cls for middleware in made.client.app.user_middleware]
    assert not {TimeoutMiddleware, OpenTelemetryMiddleware} & set(classes)


def test_openapi_description_is_made_of_classes_that_can_be_filled() -> None:
    """The description is a property of BentoML's service, and its parts have the fields that are filled in."""
    assert isinstance(inspect.getattr_static(bentoml.Service, "openapi_spec"), property)
    for part, filled in (
        (OpenAPISpecification, {"openapi", "info", "paths", "servers", "tags", "components"}),
        (Info, {"title", "version", "description"}),
        (PathItem, {"get", "post", "delete"}),
    ):
        assert filled <= {field.name for field in attrs.fields(part)}, part


def test_private_modules_are_imported_in_one_place() -> None:
    """Whoever upgrades BentoML looks into one module for what is private, and into this one for what it must be."""
    private = {
        path: sorted(name for name in imported_modules(path) if name.startswith(("bentoml._", "_bentoml")))
        for path in (ROOT / "service.py", *(ROOT / "src").rglob("*.py"))
    }
    assert [path for path, names in private.items() if names] == [INTERNALS]
    assert all(name.startswith("bentoml._internal.") for name in private[INTERNALS])
