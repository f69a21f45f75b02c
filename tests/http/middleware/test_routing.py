"""What is not served, and by which methods the rest is."""

import pytest
from starlette.requests import Request
from starlette.routing import Mount, Route

from sd_inpaint.http.middleware.routing import find_endpoint
from tests.support.edge import HEALTH, INPAINT, App, check_shape


@pytest.mark.contract
@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/sd-inpaint", 404, "not_found"),
        ("POST", "/sd-inpaint/inpaint/", 404, "not_found"),
        ("GET", "/sd-inpaint/" + "x" * 3000, 404, "not_found"),
        ("GET", "/%F0%9F%8C%B9%00", 404, "not_found"),
        ("GET", INPAINT, 405, "method_not_allowed"),
        ("DELETE", HEALTH, 405, "method_not_allowed"),
        ("PATCH", "/livez", 405, "method_not_allowed"),
        ("BREW", INPAINT, 405, "method_not_allowed"),
    ],
)
def test_paths_and_methods_that_are_not_served(app: App, method: str, path: str, status: int, code: str) -> None:
    """404 and 405 have the one shape."""
    check_shape(app.client.request(method, path), status, code)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("path", "allowed"),
    [(INPAINT, "POST"), (HEALTH, "GET, HEAD, POST"), ("/sd-inpaint/info", "GET, HEAD"), ("/readyz", "GET, HEAD")],
)
def test_allow_names_every_method_of_a_path(app: App, path: str, allowed: str) -> None:
    """405 and OPTIONS name every method that a path answers, wherever its routes stand."""
    assert app.client.put(path).headers["allow"] == allowed
    options = app.client.options(path)
    assert options.status_code == 204
    assert options.headers["allow"] == ", ".join(sorted([*allowed.split(", "), "OPTIONS"]))


@pytest.mark.contract
def test_head_of_errors(app: App) -> None:
    """HEAD on a path that only answers POST is a 405."""
    assert app.client.head(INPAINT).status_code == 405


def test_templates_name_the_paths() -> None:
    """Paths with something of the caller's in them are known by their template."""

    async def endpoint(request: Request) -> None:
        """Is never called."""

    inner = Mount("/sd-inpaint", routes=[Route("/jobs/{id}", endpoint, methods=["GET", "DELETE"])])
    routes = [Route("/x", endpoint), inner]
    scope = {"type": "http", "method": "POST", "path": "/sd-inpaint/jobs/123", "headers": []}
    found = find_endpoint(routes, scope)
    assert found is not None
    assert found.template == "/sd-inpaint/jobs/{id}"
    assert found.methods == {"GET", "HEAD", "DELETE"}
    assert find_endpoint(routes, {**scope, "path": "/sd-inpaint/jobs"}) is None
