"""The log as JSON."""

import json
import logging
import re
import sys

from sd_inpaint.http.bento.logs import JsonFormatter
from sd_inpaint.http.middleware import access_log
from sd_inpaint.telemetry.tracing import request_span


def line(message: str, *arguments: object, exc_info: bool = False) -> dict[str, str]:
    """What the formatter makes of a warning."""
    info = sys.exc_info() if exc_info else None
    record = logging.LogRecord("bentoml.sd_inpaint.http", logging.WARNING, __file__, 1, message, arguments, info)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    read: dict[str, str] = json.loads(text)
    return read


def test_a_line_is_one_object() -> None:
    """A line has time, level, logger and message; line breaks and quotes in it do not break it."""
    read = line('%s "said"\nso', "he")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", read.pop("time"))
    assert read == {"level": "warning", "logger": "bentoml.sd_inpaint.http", "message": 'he "said"\nso'}


def test_a_line_has_its_request_and_its_trace() -> None:
    """While a request is served, its lines have its id, and the ids of the caller's trace."""
    token = access_log._current_id.set("mine")
    try:
        with request_span("GET", {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}):
            read = line("x")
    finally:
        access_log._current_id.reset(token)
    assert read["request_id"] == "mine"
    assert (read["trace_id"], read["span_id"]) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")


def test_a_traceback_is_part_of_its_line() -> None:
    """An exception's traceback stands in the same object."""
    try:
        raise ValueError("no")
    except ValueError:
        assert "ValueError: no" in line("failed", exc_info=True)["exception"]
