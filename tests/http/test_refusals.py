"""Refusals are counted."""

import asyncio

import prometheus_client

from sd_inpaint.engine.lifecycle import EngineState
from sd_inpaint.http.wire.errors import error_response
from tests.support.edge import HEALTH, App


class _Forgotten:
    """An error that an earlier version wrote down, and this one does not know."""

    code = "bygone"
    facts: dict[str, object] = {}  # noqa: RUF012


def refusals(code: str) -> float:
    """How often this code was sent so far."""
    return prometheus_client.REGISTRY.get_sample_value("sd_inpaint_refusals_total", {"code": code}) or 0.0


def test_error_responses_are_counted_by_code(app: App) -> None:
    """Each error that a caller gets counts once under its code, wherever it was found; what probes get does not."""
    before = refusals("missing_field"), refusals("not_found"), refusals("model_loading")
    app.post(prompt=None)
    app.client.get("/nothing")
    app.painter.engine.state = EngineState.LOADING
    assert app.client.get(HEALTH).status_code == 503
    assert app.client.get("/readyz").status_code == 503
    after = refusals("missing_field"), refusals("not_found"), refusals("model_loading")
    assert [late - early for late, early in zip(after, before, strict=True)] == [1, 1, 0]


def test_a_code_of_an_earlier_version_has_no_label_of_its_own() -> None:
    """Labels are bounded: a code that is in no table counts as internal."""
    before = refusals("internal")

    async def drop(message: object) -> None:
        """Sends nowhere."""

    asyncio.run(error_response(_Forgotten())({"type": "http", "path": "/x"}, drop, drop))  # type: ignore[arg-type]
    assert refusals("internal") - before == 1
    assert refusals("bygone") == 0
