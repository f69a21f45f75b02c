"""``/sd-inpaint/health`` and ``/sd-inpaint/info``: what probes and people are told."""

import json
import threading
import time

import pytest

from sd_inpaint.engine.lifecycle import EngineState
from tests.support.edge import HEALTH, App, check_shape, make_app


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
    """Health has exactly the API guide's three keys; a folder's path is not shown; HEAD and readyz agree."""
    guide = {"status": "healthy", "service": "stable-diffusion-inpaint", "model": model.removeprefix("/models/")}
    with make_app(model=model) as app:
        for response in (app.client.get(HEALTH), app.client.post(HEALTH), app.client.post(HEALTH, json={})):
            assert response.status_code == 200
            assert response.json() == guide
            assert response.headers["content-type"] == "application/json"
        head = app.client.head(HEALTH)
        assert (head.status_code, int(head.headers["content-length"])) == (200, len(json.dumps(guide, separators=",:")))
        assert app.client.get("/readyz").status_code == 200


def test_health_while_painting(app: App) -> None:
    """Health answers at once while pictures are being painted."""
    app.painter.held = True
    callers = [threading.Thread(target=app.post) for _ in range(4)]
    for caller in callers:
        caller.start()
    while len(app.painter.requests) < 4:
        time.sleep(0.01)
    started = time.monotonic()
    assert app.client.get("/sd-inpaint/health").status_code == 200
    assert app.client.get("/readyz").status_code == 200
    assert time.monotonic() - started < 1.0
    app.painter.held = False
    for caller in callers:
        caller.join()


@pytest.mark.contract
def test_info_names_the_model_and_each_parameter(app: App) -> None:
    """Info names the model and each parameter's type, default and bounds."""
    info = app.client.get("/sd-inpaint/info").json()
    assert info["model"] == "demo"
    steps = {"description": "Number of denoising steps.", "default": 50, "minimum": 1, "maximum": 150}
    assert info["parameters"]["num_inference_steps"] == {**steps, "type": "integer"}
    types = {name: info["parameters"][name]["type"] for name in ("prompt", "guidance_scale", "padding", "mask_invert")}
    assert types == {"prompt": "string", "guidance_scale": "number", "padding": "integer", "mask_invert": "boolean"}
    assert info["parameters"]["prompt"]["required"] is True
    assert info["parameters"]["region"]["choices"] == ["auto", "full", "mask"]


def test_health_of_a_service_that_is_degraded(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something is wrong but requests are served, health is 200, degraded, with what; readyz stays 200."""
    monkeypatch.setattr(app.runner, "trouble", lambda: "Jobs cannot be stored.")
    response = app.client.get(HEALTH)
    assert response.status_code == 200
    assert response.json() == {
        "status": "degraded",
        "problems": [{"code": "state_unavailable", "message": "Jobs cannot be stored."}],
        "service": "stable-diffusion-inpaint",
        "model": "demo",
    }
    assert app.client.get("/readyz").status_code == 200
    assert app.post().status_code == 200
    assert app.client.get("/sd-inpaint/info").json()["condition"]["problems"] == ["state_unavailable"]


def test_info_has_the_figures_behind_health(app: App) -> None:
    """Info has what the state folder, the memory and the device loop are at."""
    condition = app.client.get("/sd-inpaint/info").json()["condition"]
    assert condition["problems"] == []
    assert condition["memory"]["held_bytes"] + condition["memory"]["resident_bytes"] > 0
    assert condition["state"]["trouble"] is None
    assert condition["loop"]["turn_age_seconds"] == 0
