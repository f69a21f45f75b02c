"""Trouble in the machine, in the one shape."""

import json

import pytest

from sd_inpaint.errors import (
    EngineCrashedError,
    InpaintError,
    ModelFailedError,
    OutOfMemoryError,
)
from tests.support.edge import ORIGIN, App, check_shape
from tests.support.pictures import opened, photo, written


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
