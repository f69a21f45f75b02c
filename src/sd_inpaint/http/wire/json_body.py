"""A request's JSON body → its object, without a body that freezes the server.

Any parser makes an object of each value: 99 MB of ``[],[],…`` hold the interpreter for 12 to 17 s and take 2.3 GB, with
``json``, msgspec or orjson. A picture in base64 is one value, however large. So what makes values is counted while the
body arrives, in C, and a body with more of it than any call has is never parsed.
"""

import json
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request

from sd_inpaint.errors import InvalidParameterError, MalformedBodyError, UnsupportedMediaTypeError
from sd_inpaint.http.wire.errors import UploadTimeoutError
from sd_inpaint.http.wire.forms import check_plain, reading_body

JSON = "application/json"

READS_JSON = (UnsupportedMediaTypeError, MalformedBodyError, InvalidParameterError, UploadTimeoutError)
"""What a caller can meet whose JSON is read."""

MAX_VALUES = 65_536
"""Of ``[``, ``{`` and ``,``, one of which stands before every value. The largest call has some sixty fields; the rest
is for commas in two prompts of 10,000 characters. As many parse in 20 ms."""

MAX_DEPTH = 64

MAX_DIGITS = 400
"""Of a number: more than the largest float has."""


async def read_json_body(request: Request) -> bytes:
    """Reads a request's body to its end, or to where it has too many values.

    Raises:
        UnsupportedMediaTypeError: If the body is not application/json, or is compressed.
        MalformedBodyError: If it has more than MAX_VALUES values.
        BodyTooLargeError: If it is larger than the server accepts.
        UploadTimeoutError: If it takes too long to arrive.
        RequestCancelledError: If the client disconnects meanwhile.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON and not media_type.endswith("+json"):
        raise UnsupportedMediaTypeError(f"The body must be {JSON}, not {media_type[:100]!r}.")
    check_plain(request)
    body = bytearray()
    values = 0
    with reading_body():
        async for chunk in request.stream():
            values += chunk.count(b"[") + chunk.count(b"{") + chunk.count(b",")
            if values > MAX_VALUES:
                raise MalformedBodyError(f"The JSON has more than {MAX_VALUES} values.")
            body += chunk
    return bytes(body)


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Parses what :func:`read_json_body` has read; up to half a second for 100 MB, so not on the event loop.

    Raises:
        MalformedBodyError: If it is not a JSON object in UTF-8 (RFC 8259), is nested deeper than MAX_DEPTH, or holds
            a number that no computer counts with.
        InvalidParameterError: If a text has half of a surrogate pair, which no file and no answer can hold.
    """
    try:
        sent = json.loads(
            body.decode("utf-8-sig"), parse_int=_integer, parse_float=_float, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise MalformedBodyError("The body is not JSON in UTF-8.") from error
    if not isinstance(sent, dict):
        raise MalformedBodyError("The body must be a JSON object.")
    for name, value in sent.items():
        for text in (name, *_texts(value, MAX_DEPTH)):
            _check_text(name, text)
    return sent


def _texts(value: object, depth: int) -> Iterator[str]:
    """Every text in a value, names of fields among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        if depth == 0:
            raise MalformedBodyError(f"The JSON is nested deeper than {MAX_DEPTH} levels.")
        for part in value:
            yield from _texts(part, depth - 1)
        for part in value.values() if isinstance(value, dict) else ():
            yield from _texts(part, depth - 1)


def _check_text(field: str, text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        shown = field[:100].encode("utf-8", "replace").decode("utf-8")
        raise InvalidParameterError(f"The field {shown!r} has half of a surrogate pair.", field=shown) from error


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise MalformedBodyError(f"The JSON has a number of {len(digits)} digits.")
    return int(digits)


def _float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise MalformedBodyError("The JSON has a number that is too large.")
    return number


def _refuse_constant(name: str) -> float:
    raise MalformedBodyError(f"{name} is not JSON.")
