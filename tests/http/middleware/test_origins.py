"""Pages of other sites, which a browser lets send what they may not read."""

import pytest

from tests.support.edge import HEALTH, check_shape, make_app


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
