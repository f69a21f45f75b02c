"""Pages of other sites, and names that lead here."""

from typing import Any

import pytest

from tests.support.edge import HEALTH, KEYS, App, check_shape, make_app


@pytest.mark.parametrize(
    ("settings", "origin", "allowed"),
    [
        ({}, "http://localhost:3000", "http://localhost:3000"),
        ({}, "https://[::1]:8443", "https://[::1]:8443"),
        ({}, "http://app.localhost", "http://app.localhost"),
        ({}, "http://127.0.0.1", "http://127.0.0.1"),
        ({}, "https://app.example", None),
        ({}, "http://localhost.evil.example", None),
        ({}, "http://evil.example:localhost", None),
        ({}, "null", None),
        ({"api_keys": KEYS}, "https://app.example", "*"),
        ({"cors_origins": ("*",)}, "https://app.example", "*"),
        ({"cors_origins": ("auto", "https://app.example")}, "https://app.example", "https://app.example"),
    ],
)
def test_origins_that_may_read(settings: dict[str, Any], origin: str, allowed: str | None) -> None:
    """Without keys a page that this machine serves may call; with keys, or with ``*``, any page may."""
    with make_app(**settings) as app:
        answer = app.client.get(HEALTH, headers={"Origin": origin})
        assert answer.headers.get("access-control-allow-origin") == allowed


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "same-site"}, 403),
        ({}, 200),
        ({"Origin": "http://testserver"}, 200),
        ({"Origin": "http://localhost:3000", "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Origin": "https://public.example", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
)
def test_foreign_pages_paint_nothing(headers: dict[str, str], status: int) -> None:
    """What a page of another site has a browser send is refused unread; programs and own pages are served."""
    with make_app() as app:
        response = app.post(headers)
        assert response.status_code == status
        assert app.painted() == (1 if status == 200 else 0)
        if status == 403:
            check_shape(response, 403, "forbidden_origin")
            check_shape(app.client.delete("/sd-inpaint/jobs/x", headers=headers), 403, "forbidden_origin")
            assert app.client.get(HEALTH, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("paint.example", 200),
        ("PAINT.example.:443", 200),
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("sd-inpaint", 200),
        ("shop-sd-inpaint.shop.svc.cluster.local:80", 200),
    ],
)
def test_names_that_lead_here(host: str, status: int) -> None:
    """A page whose own name leads to this server (DNS rebinding) gets nothing from one without keys."""
    with make_app(allowed_hosts=("paint.example",)) as app:
        assert app.client.get(HEALTH, headers={"Host": host}).status_code == status
        if status == 403:
            check_shape(app.client.get("/sd-inpaint/info", headers={"Host": host}), 403, "forbidden_host")
    with make_app(api_keys=KEYS) as app:
        assert app.client.get(HEALTH, headers={"Host": host}).status_code == 200


def test_answers_are_what_they_say(app: App) -> None:
    """No browser takes a result or an error for a page, whatever its bytes look like."""
    for response in (app.post(), app.post(seed="x"), app.client.get("/nothing"), app.client.get("/")):
        assert response.headers.get_list("x-content-type-options") == ["nosniff"]
