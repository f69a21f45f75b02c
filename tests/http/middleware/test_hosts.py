"""The name by which a browser found this server."""

import pytest

from tests.support.edge import HEALTH, KEYS, check_shape, make_app


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
