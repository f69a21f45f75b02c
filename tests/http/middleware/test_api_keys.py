"""Who is let in."""

import base64
from typing import Any

import pytest

from sd_inpaint.callers.accounts import Account
from tests.support.edge import HEALTH, INPAINT, KEYS, ORIGIN, PREFLIGHT, check_shape, form, make_app


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


def test_everybody_waits_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests with a key keep its pace, those that are refused their address's, and probes none."""
    turns = []

    async def wait_for_turn(account: Account) -> None:
        turns.append(account.label)

    monkeypatch.setattr(Account, "wait_for_turn", wait_for_turn)
    with make_app(api_keys=KEYS) as app:
        app.client.get(HEALTH)
        assert turns == []
        app.client.get("/sd-inpaint/info")
        app.client.get("/sd-inpaint/info", headers={"X-API-Key": "wrong"})
        assert turns == ["@testclient"] * 2
        app.client.get("/sd-inpaint/info", headers={"X-API-Key": "first-key"})
        assert turns[2].startswith("key-")
