"""What every request meets: ids, CORS, limits, error shape, routing, keys, health."""

import base64
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.routing import Mount, Route

import sd_inpaint.errors
from sd_inpaint.engine.lifecycle import EngineState
from sd_inpaint.errors import (
    CallerError,
    DeadlineExceededError,
    EngineCrashedError,
    InpaintError,
    ModelFailedError,
    ModelLoadingError,
    OutOfMemoryError,
    QueueFullError,
    ShuttingDownError,
)
from sd_inpaint.http.middleware.routing import find_endpoint
from sd_inpaint.http.wire.errors import STATUSES, error_response
from tests.support.edge import HEALTH, INPAINT, KEYS, ORIGIN, App, check_shape, form, make_app
from tests.support.pictures import opened, photo, written

PREFLIGHT = {**ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}


def all_errors(root: type[InpaintError]) -> Iterator[type[InpaintError]]:
    """Yields every error class there is."""
    for error_class in root.__subclasses__():
        yield error_class
        yield from all_errors(error_class)


def test_every_error_has_its_status() -> None:
    """The table has each code; errors of the caller are 4xx, those of the machine 5xx or 429."""
    for error_class in all_errors(sd_inpaint.errors.InpaintError):
        status = STATUSES[error_class.code]
        if error_class.code != "internal":
            assert status < 500 if issubclass(error_class, CallerError) else status >= 500 or status == 429


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (QueueFullError("Full.", retry_after_seconds=17), {"Retry-After": "17"}),
        (ModelLoadingError("Loading."), {"Retry-After": "5"}),
        (ShuttingDownError("Stopping."), {"Retry-After": "10"}),
        (sd_inpaint.errors.UnauthorizedError("No key."), {"WWW-Authenticate": 'Bearer realm="sd-inpaint"'}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_headers_of_errors(error: InpaintError, headers: dict[str, str]) -> None:
    """Errors that ask the caller to do something carry the header that says it to programs."""
    response = error_response(error)
    assert headers.items() <= {k.title().replace("Www", "WWW"): v for k, v in response.headers.items()}.items()


@pytest.mark.contract
@pytest.mark.parametrize("sent", ["abc-123", "trace:1/2@host+x=y_z.", "a" * 128])
def test_request_id_is_kept(app: App, sent: str) -> None:
    """A caller's own id comes back, on results and on errors."""
    assert app.post({"X-Request-ID": sent}).headers["x-request-id"] == sent
    assert app.client.get("/nothing", headers={"X-Request-ID": sent}).headers["x-request-id"] == sent


@pytest.mark.contract
@pytest.mark.parametrize("sent", [None, "", "a b", "a" * 129, 'x"y', "é".encode().decode("latin-1"), "<script>"])
def test_request_id_is_made(app: App, sent: str | None) -> None:
    """No id, or one that is unfit for logs, gets a new one, another for each request."""
    headers = {} if sent is None else {"X-Request-ID": sent.encode("latin-1")}
    ids = {app.client.get(HEALTH, headers=headers).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}", made) for made in ids)


def test_log_has_one_line_a_request_and_nothing_of_the_body(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """The journal has id, path and status; prompts stay out of the log, also when they are wrong."""
    with caplog.at_level(logging.INFO):
        app.post({"X-Request-ID": "good"}, prompt="secret words")
        app.post({"X-Request-ID": "bad"}, seed="secret words")
        app.client.get("/a%0Ab", headers={"X-Request-ID": "odd"})
        app.client.get(HEALTH)
    lines = [record.getMessage() for record in caplog.records if record.name == "bentoml.sd_inpaint.http"]
    assert [line.split()[:4] for line in lines] == [
        ["good", "POST", INPAINT, "200"],
        ["bad", "POST", INPAINT, "400"],
        ["odd", "GET", "/a%0Ab", "404"],
    ]
    assert "secret" not in caplog.text


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
    assert response.headers["access-control-allow-origin"] == "*"
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
    assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.contract
@pytest.mark.parametrize("path", [INPAINT, HEALTH, "/nothing"])
def test_preflights(app: App, path: str) -> None:
    """A preflight is answered on every path, whatever header the script wants to send."""
    response = app.client.options(path, headers=PREFLIGHT)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "*"
    assert "POST" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-headers"] == "x-api-key"


def test_preflight_while_the_queue_is_full_or_the_model_loads(app: App) -> None:
    """Preflights do not count as requests."""
    app.painter.refusal = QueueFullError("The queue is full.", retry_after_seconds=3)
    app.painter.engine.state = EngineState.LOADING
    assert app.client.options(INPAINT, headers=PREFLIGHT).status_code == 200


def test_origins_can_be_limited() -> None:
    """Only origins that the operator names may read; others get an error in the one shape."""
    with make_app(cors_origins=("https://app.example",)) as app:
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
def test_allow(app: App, path: str, allowed: str) -> None:
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


def basic(credentials: str) -> str:
    """A user and a password as RFC 7617 has them."""
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-key"},
        {"Authorization": "bearer  first-key "},
        {"X-API-Key": "first-key"},
        {"X-API-Key": "zweiter-schlüssel".encode()},
        {"Authorization": "Bearer wrong", "X-API-Key": "first-key"},
        {"Authorization": basic("anybody:first-key")},
        {"Authorization": basic(":first-key").replace("Basic", "basic ")},
        {"Authorization": basic("someone:zweiter-schlüssel")},
    ],
)
def test_api_keys_let_in(headers: dict[str, Any]) -> None:
    """Either header with any of the keys is enough."""
    with make_app(api_keys=KEYS) as app:
        assert app.client.post(INPAINT, headers=headers, **form()).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer first-ke"},
        {"Authorization": "Bearer first-key2"},
        {"Authorization": "Basic first-key"},
        {"Authorization": "Basic *"},
        {"Authorization": basic("first-key")},
        {"Authorization": basic("first-key:")},
        {"Authorization": basic("anybody:first-key:")},
        {"Authorization": "first-key"},
        {"X-API-Key": ""},
        {"X-API-Key": "FIRST-KEY"},
        {"X-API-Key": b"\xff\xfe"},
    ],
)
def test_api_keys_keep_out(headers: dict[str, Any]) -> None:
    """Without a key nothing is served, not even a look at the schema; the answer says what is asked for."""
    with make_app(api_keys=KEYS) as app:
        response = app.client.post(INPAINT, headers={**ORIGIN, **headers}, **form())
        check_shape(response, 401, "unauthorized")
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert response.headers["access-control-allow-origin"] == "*"
        assert app.client.get("/schema.json", headers=headers).status_code == 401
        assert app.painter.requests == []


def test_probes_and_preflights_need_no_key() -> None:
    """What probes ask, and what browsers ask by themselves, carries no key."""
    with make_app(api_keys=KEYS) as app:
        assert {app.client.get(path).status_code for path in (HEALTH, "/readyz", "/livez", "/healthz")} == {200}
        assert app.client.options(INPAINT, headers=PREFLIGHT).status_code == 200


@pytest.mark.parametrize(
    ("state", "reason", "code"),
    [
        (EngineState.LOADING, None, "model_loading"),
        (EngineState.DISABLED, "LOAD_SD_INPAINT is false.", "model_disabled"),
        (EngineState.FAILED, "There are no weights in /models.", "model_failed"),
        (EngineState.STOPPING, None, "shutting_down"),
    ],
)
def test_health_of_a_service_that_cannot_paint(app: App, state: EngineState, reason: str | None, code: str) -> None:
    """Health is 503 with the state and its reason, in GET, HEAD and POST alike; readyz agrees and livez does not."""
    app.painter.engine.state, app.painter.engine.reason = state, reason
    body = check_shape(app.client.get(HEALTH), 503, code)
    assert body["status"] == state.value
    assert body["service"] == "stable-diffusion-inpaint"
    assert body.get("reason") == reason
    assert check_shape(app.client.post(HEALTH), 503, code) == body
    assert app.client.head(HEALTH).status_code == 503
    check_shape(app.client.get("/readyz"), 503, "not_ready")
    assert app.client.get("/livez").status_code == 200


@pytest.mark.parametrize("model", ["demo", "runwayml/stable-diffusion-inpainting", "/models/mine"])
def test_health_of_a_service_that_paints(model: str) -> None:
    """Health has exactly the API guide's three keys; HEAD has its headers; readyz agrees."""
    guide = {"status": "healthy", "service": "stable-diffusion-inpaint", "model": model}
    with make_app(model=model) as app:
        for response in (app.client.get(HEALTH), app.client.post(HEALTH), app.client.post(HEALTH, json={})):
            assert response.status_code == 200
            assert response.json() == guide
            assert response.headers["content-type"] == "application/json"
        head = app.client.head(HEALTH)
        assert (head.status_code, int(head.headers["content-length"])) == (200, len(json.dumps(guide, separators=",:")))
        assert app.client.get("/readyz").status_code == 200


@pytest.mark.contract
def test_info(app: App) -> None:
    """Info names the model and each parameter's type, default and bounds."""
    info = app.client.get("/sd-inpaint/info").json()
    assert info["model"] == "demo"
    steps = {"description": "Number of denoising steps.", "default": 50, "minimum": 1, "maximum": 150}
    assert info["parameters"]["num_inference_steps"] == {**steps, "type": "integer"}
    types = {name: info["parameters"][name]["type"] for name in ("prompt", "guidance_scale", "padding", "mask_invert")}
    assert types == {"prompt": "string", "guidance_scale": "number", "padding": "integer", "mask_invert": "boolean"}
    assert info["parameters"]["prompt"]["required"] is True
    assert info["parameters"]["region"]["choices"] == ["auto", "full", "mask"]


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (RuntimeError("secret detail"), 500, "internal"),
        (KeyError("secret detail"), 500, "internal"),
        (MemoryError("secret detail"), 500, "internal"),
        (EngineCrashedError("The engine failed at this picture."), 500, "internal"),
        (OutOfMemoryError("The device has too little memory."), 500, "out_of_memory"),
        (ModelFailedError("The model could not be loaded."), 503, "model_failed"),
    ],
    ids=repr,
)
def test_trouble_in_the_machine(app: App, failure: Exception, status: int, code: str) -> None:
    """Errors of the machine say what they may say; a defect shows nothing of itself, and the next request works."""
    app.painter.failure = failure
    body = check_shape(app.post({"X-Request-ID": "mine"}), status, code)
    assert "secret" not in json.dumps(body)
    if not isinstance(failure, InpaintError):
        assert "mine" in body["error"]
    app.painter.failure = None
    assert opened(app.post().content).shape == opened(written(photo())).shape


def test_defects_outside_of_endpoints(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in a mounted route is a 500 in the one shape too, and does not leave the caller hanging."""

    def broken() -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(app.painter, "info", broken)
    body = check_shape(app.client.get("/sd-inpaint/info", headers=ORIGIN), 500, "internal")
    assert "secret" not in json.dumps(body)
