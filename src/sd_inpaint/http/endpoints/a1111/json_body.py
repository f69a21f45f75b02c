"""A request's JSON body → an object that is sound text throughout."""

import json
from typing import Any

from starlette.requests import Request

from sd_inpaint.errors import InvalidParameterError, MalformedBodyError, UnsupportedMediaTypeError
from sd_inpaint.http.wire.forms import reading_body


async def read_body(request: Request) -> bytes:
    """Reads a body that claims to be JSON.

    Raises:
        UnsupportedMediaTypeError: If it claims to be something else.
        UploadTimeoutError, RequestCancelledError: As :func:`~sd_inpaint.http.wire.forms.reading_body` raises them.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaTypeError(f"The body must be application/json, not {media_type[:100]!r}.")
    with reading_body():
        return await request.body()


def parse(body: bytes) -> dict[str, Any]:
    """Reads a JSON object; takes as long as the body is large.

    Raises:
        MalformedBodyError: If it is none, or has NaN or Infinity in it, which JSON does not know.
        InvalidParameterError: If a text has half of a surrogate pair, which no file and no answer can hold.
    """
    try:
        sent = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedBodyError("The body is not JSON.") from error
    if not isinstance(sent, dict):
        raise MalformedBodyError("The body must be a JSON object.")
    _check_texts(sent)
    return sent


def _refuse_constant(constant: str) -> None:
    raise ValueError(constant)


def _check_texts(sent: dict[str, Any]) -> None:
    """Looks at every text, with a stack of its own: how deep a body is nested is up to its sender."""
    pending: list[tuple[str, object]] = []
    for name, value in sent.items():
        shown = name.encode("utf-8", "replace").decode("utf-8")[:100]
        pending += [(shown, name), (shown, value)]
        while pending:
            field, part = pending.pop()
            if isinstance(part, str):
                if not _is_sound(part):
                    raise InvalidParameterError(f"The field {field!r} has half of a surrogate pair.", field=field)
            elif isinstance(part, dict):
                pending += [(field, key) for key in part]
                pending += [(field, item) for item in part.values()]
            elif isinstance(part, list):
                pending += [(field, item) for item in part]


def _is_sound(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
