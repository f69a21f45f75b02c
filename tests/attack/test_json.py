"""JSON that freezes a parser, or that no encoder can write back."""

import gzip
import json
import time
from typing import Any

import pytest

from sd_inpaint.errors import InvalidParameterError, MalformedBodyError
from sd_inpaint.http.wire.errors import error_response
from sd_inpaint.http.wire.json_body import MAX_DEPTH, MAX_DIGITS, MAX_VALUES, parse_json_object
from tests.support.edge import App, check_shape

IMG2IMG = "/sdapi/v1/img2img"


def post(app: App, body: bytes) -> Any:
    """Posts a body as JSON."""
    return app.client.post(IMG2IMG, content=body, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":[' + b"[]," * 3_000_000 + b"[]]}",
        b"{" + b",".join(b'"k%d":1' % n for n in range(500_000)) + b"}",
        b"[" * 5_000_000,
        b'{"a":' * 1_000_000,
    ],
    ids=["lists", "keys", "nested", "nested objects"],
)
def test_bombs_are_not_parsed(app: App, body: bytes) -> None:
    """A body of millions of values is refused while it arrives, in a fraction of what parsing it takes."""
    started = time.monotonic()
    refusal = post(app, body)
    assert time.monotonic() - started < 1.0
    assert "values" in check_shape(refusal, 400, "malformed_body")["error"]


def test_compressed_bodies_are_refused(app: App) -> None:
    """A compressed body is a 415 before it is read, as it is for forms: nothing is ever unpacked."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    refusal = app.client.post(IMG2IMG, content=gzip.compress(bytes(1_000_000)), headers=headers)
    check_shape(refusal, 415, "unsupported_media_type")


def test_the_most_values_that_are_parsed_take_no_time() -> None:
    """What passes the bound is parsed in some milliseconds, whatever its shape."""
    for body in (
        b'{"x":[' + b"[]," * (MAX_VALUES // 2 - 4) + b"[]]}",
        b"{" + b",".join(b'"k%d":1' % n for n in range(MAX_VALUES)) + b"}",
    ):
        started = time.process_time()
        parse_json_object(body)
        assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"sampler_name": "\\ud83d"}',
        b'{"styles": ["\\ud800"]}',
        b'{"init_images": ["\\ud800"]}',
        b'{"prompt": "\xed\xa0\x80"}',
        b'{"batch_size": ' + b"9" * 4001 + b', "n_iter": ' + b"9" * 4001 + b"}",
        b'{"batch_size": ' + b"9" * MAX_DIGITS + b', "n_iter": ' + b"9" * MAX_DIGITS + b"}",
        b'{"steps": 1e400}',
        b'{"steps": NaN}',
        b'{"x": ' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}",
        b'{"x": ' + b"[" * 60_000 + b"]" * 60_000 + b"}",
        b"\xff\xfe{\x00}\x00",
        b"[1]",
        b"",
    ],
)
def test_what_cannot_be_meant_is_a_400(app: App, body: bytes) -> None:
    """Half surrogates, giant numbers, deep nesting and other encodings are the caller's mistakes, not the server's."""
    assert post(app, body).status_code == 400
    assert post(app, body).json()["code"] in ("malformed_body", "invalid_parameter", "missing_field")


def test_what_is_meant_is_read() -> None:
    """Emoji, whole surrogate pairs, a byte order mark and numbers at their bounds are read as they are."""
    body = b'\xef\xbb\xbf{"prompt": "\\ud83c\\udf39 \xf0\x9f\x8c\xb9", "seed": 18446744073709551615, "cfg_scale": 7.5}'
    assert parse_json_object(body) == {"prompt": "🌹 🌹", "seed": 2**64 - 1, "cfg_scale": 7.5}
    with pytest.raises(MalformedBodyError, match="object"):
        parse_json_object(b'"text"')


@pytest.mark.parametrize("path", ["/sd-inpaint/inpaint", "/v1/images/edits", IMG2IMG])
def test_every_error_can_be_written(path: str) -> None:
    """An error that repeats half a surrogate of its caller's is still an answer, in each dialect's shape."""
    response = error_response(InvalidParameterError("The field '\ud800' is unknown.", field="\ud800"), path)
    assert "?" in json.dumps(json.loads(bytes(response.body)))
    assert response.status_code == 400
