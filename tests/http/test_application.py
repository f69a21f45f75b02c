"""The whole application: what surrounds it, its end, and what it loads."""

import subprocess
import sys

import pytest

from tests.support.edge import App, make_app
from tests.support.repository import ROOT


def test_timeout_middleware_is_gone() -> None:
    """BentoML's time-out would leave callers hanging when something breaks, so it must not be there."""
    with make_app() as app:
        stack = [middleware.cls.__name__ for middleware in app.client.app.user_middleware]  # type: ignore[attr-defined]
    edge = [
        "UnreadBody",
        "Tracing",
        "AccessLog",
        "Cors",
        "PathPrefix",
        "BodyLimit",
        "ErrorShape",
        "Hosts",
        "Origins",
        "Routing",
    ]
    assert stack[: len(edge)] == edge
    assert stack[len(edge)] == "ApiKeys"
    assert "TimeoutMiddleware" not in stack
    assert stack.count("Unlabel") == 1


def test_stop_ends_the_painter() -> None:
    """When the server ends, so does the engine."""
    with make_app() as app:
        painter = app.painter
    assert painter.stopped


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The modules that a process has loaded once it has imported the service, as it is in this repository."""
    probe = f"import service, sys; assert service.__file__ == {str(ROOT / 'service.py')!r}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_no_torch(loaded: set[str]) -> None:
    """Whoever imports the service, to build a Bento for one, waits for nothing heavy: torch is the engine's to load."""
    assert not loaded & {"torch", "diffusers", "transformers"}


def test_import_loads_no_databases_client(loaded: set[str]) -> None:
    """PostgreSQL's client is loaded only where a database is set."""
    assert "psycopg" not in loaded


def test_answers_are_what_they_say(app: App) -> None:
    """No browser takes a result or an error for a page, whatever its bytes look like."""
    for response in (app.post(), app.post(seed="x"), app.client.get("/nothing"), app.client.get("/")):
        assert response.headers.get_list("x-content-type-options") == ["nosniff"]
