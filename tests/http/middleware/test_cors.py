"""What browsers' scripts may read and send."""

from typing import Any

import pytest

from sd_inpaint.engine.lifecycle import EngineState
from sd_inpaint.errors import (
    DeadlineExceededError,
    QueueFullError,
)
from tests.support.edge import HEALTH, INPAINT, ORIGIN, PREFLIGHT, App, check_shape, form, make_app

CORS_CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "result": ("POST", form(), 200),
    "bad request": ("POST", form(seed="x"), 400),
    "unknown method": ("PUT", {}, 405),
    "wrong type": ("POST", {"json": {}}, 415),
}


@pytest.mark.contract
@pytest.mark.parametrize("name", CORS_CASES)
def test_cors_headers_on_everything(app: App, name: str) -> None:
    """A browser's script may read results, errors, and the headers that this service adds."""
    method, arguments, status = CORS_CASES[name]
    response = app.client.request(method, INPAINT, headers=ORIGIN, **arguments)
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == ORIGIN["Origin"]
    exposed = response.headers["access-control-expose-headers"].split(", ")
    assert {"X-Seed", "X-Model", "X-Steps", "X-Inference-Seconds", "X-Request-ID", "Retry-After", "X-Region"} <= {
        *exposed
    }


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (QueueFullError("The queue is full.", retry_after_seconds=3), 429),
        (DeadlineExceededError("It took too long."), 504),
        (RuntimeError("a defect"), 500),
    ],
    ids=str,
)
def test_cors_headers_on_the_machine_s_errors(app: App, failure: Exception, status: int) -> None:
    """429, 504 and 500 are no network errors to a browser."""
    app.painter.failure = failure
    response = app.post(ORIGIN)
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == ORIGIN["Origin"]


@pytest.mark.contract
@pytest.mark.parametrize("path", [INPAINT, HEALTH, "/nothing"])
def test_preflight_is_answered_on_every_path(app: App, path: str) -> None:
    """A preflight is answered on every path, whatever header the script wants to send."""
    response = app.client.options(path, headers=PREFLIGHT)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN["Origin"]
    assert "POST" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-headers"] == "x-api-key"


def test_preflight_while_the_queue_is_full_or_the_model_loads(app: App) -> None:
    """Preflights do not count as requests."""
    app.painter.refusal = QueueFullError("The queue is full.", retry_after_seconds=3)
    app.painter.engine.state = EngineState.LOADING
    assert app.client.options(INPAINT, headers=PREFLIGHT).status_code == 200


def test_origins_can_be_limited() -> None:
    """Only origins that the operator names may read; others get an error in the one shape."""
    with make_app(cors_origins=(ORIGIN["Origin"],)) as app:
        assert app.client.get(HEALTH, headers=ORIGIN).headers["access-control-allow-origin"] == ORIGIN["Origin"]
        other = {**PREFLIGHT, "Origin": "https://evil.example"}
        assert "access-control-allow-origin" not in app.client.get(HEALTH, headers=other).headers
        refusal = app.client.options(INPAINT, headers=other)
        check_shape(refusal, 403, "forbidden_origin")
        assert "access-control-allow-origin" not in refusal.headers


def test_cors_can_be_off() -> None:
    """Without origins no browser may read anything."""
    with make_app(cors_origins=()) as app:
        assert "access-control-allow-origin" not in app.client.get(HEALTH, headers=ORIGIN).headers
        assert app.client.options(INPAINT, headers=PREFLIGHT).status_code == 204


def test_refused_preflight_says_what_the_operator_can_do(app: App) -> None:
    """A page of another site learns why it may not call, and that the server is on a private network where it asked."""
    foreign = {**PREFLIGHT, "Origin": "https://app.example"}
    plain = app.client.options(INPAINT, headers=foreign)
    private = app.client.options(INPAINT, headers={**foreign, "Access-Control-Request-Private-Network": "true"})
    for response in (plain, private):
        assert "SD_INPAINT_CORS_ORIGINS" in check_shape(response, 403, "forbidden_origin")["error"]
    assert "private network" not in plain.text
    assert "private network" in private.text
