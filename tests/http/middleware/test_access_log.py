"""A request's id, and its line in the log."""

import logging
import re

import pytest

from tests.support.edge import HEALTH, INPAINT, App


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
