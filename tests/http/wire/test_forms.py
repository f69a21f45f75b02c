"""Bodies → forms."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from sd_inpaint.errors import (
    InpaintError,
    InvalidParameterError,
    MalformedBodyError,
    MissingFieldError,
    RequestCancelledError,
    UnsupportedMediaTypeError,
)
from sd_inpaint.http.endpoints.inpainting import FIELDS
from sd_inpaint.http.wire.forms import TEXT_BYTES, Form, FormFields, read_form
from sd_inpaint.schema import InpaintParameters

BOUNDARY = "BoUnDaRy"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
BENTOML_CLIENT = "BentoML HTTP Client/1.4.39"
TWO = FormFields(files=("image",), texts=("prompt", "seed"))


def part(name: str, data: bytes | str, *extra: str, filename: str | None = None) -> bytes:
    """Returns one part of a body, from its boundary to its last byte."""
    raw = data.encode() if isinstance(data, str) else data
    file = "" if filename is None else f'; filename="{filename}"'
    lines = [f"--{BOUNDARY}", f'Content-Disposition: form-data; name="{name}"{file}', *extra, "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + raw + b"\r\n"


def body(*parts: bytes, end: bytes = f"--{BOUNDARY}--\r\n".encode()) -> bytes:
    """Returns a whole body."""
    return b"".join(parts) + end


IMAGE = part("image", b"\x89PNG...", filename="a.png")


def read(
    data: bytes,
    *,
    fields: FormFields = TWO,
    content_type: str | None = MULTIPART,
    chunk_bytes: int = 0,
    disconnects: bool = False,
    **headers: str,
) -> Form:
    """Reads a form from a body that comes in pieces of ``chunk_bytes``, or whole."""
    size = chunk_bytes or max(1, len(data))
    pieces = [data[start : start + size] for start in range(0, len(data), size)] or [b""]
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": p, "more_body": True} for p in pieces]
    messages.append({"type": "http.disconnect"} if disconnects else {"type": "http.request", "body": b""})

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    if content_type is not None:
        headers["content-type"] = content_type
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return asyncio.run(read_form(Request({"type": "http", "headers": raw}, receive), fields))


@pytest.mark.parametrize("chunk_bytes", [0, 1, 2, 7, 64])
def test_form_holds_what_was_sent(chunk_bytes: int) -> None:
    """However a body is cut into pieces, files and texts come out as they went in."""
    data = bytes(range(256)) + b"\r\n--BoUnDaR\r\n--BoUnDaRyX\r\n"
    got = read(body(part("image", data, filename="x.png"), part("prompt", "é\r\n ")), chunk_bytes=chunk_bytes)
    assert got.files == {"image": data}
    assert got.texts == {"prompt": "é\r\n "}


@pytest.mark.parametrize(
    "content_type",
    [
        MULTIPART,
        f"Multipart/Form-Data; boundary={BOUNDARY}",
        f"MULTIPART/FORM-DATA;BOUNDARY={BOUNDARY}",
        f'multipart/form-data; charset=utf-8; boundary="{BOUNDARY}"',
    ],
)
def test_content_type_in_any_spelling(content_type: str) -> None:
    """Case, quotes and other parameters of the Content-Type make no difference."""
    assert read(body(IMAGE), content_type=content_type).files["image"] == b"\x89PNG..."


EXACT = [
    "",
    " ",
    "\n",
    "\r\n",
    "1984",
    "1e3",
    "true",
    "null",
    '"quoted"',
    '{"a":1}',
    "[1]",
    "NaN",
    "a=b&c",
    "🌹é漢字",
    "\0",
]


@pytest.mark.parametrize("text", EXACT, ids=repr)
@pytest.mark.parametrize("agent", ["curl/8.5.0", "BentoML something else", BENTOML_CLIENT])
def test_texts_are_exact(text: str, agent: str) -> None:
    """A prompt is never taken for JSON, and what BentoML's clients make of it is undone."""
    sent = json.dumps(text) if agent == BENTOML_CLIENT else text
    assert read(body(IMAGE, part("prompt", sent)), user_agent=agent).texts == {"prompt": text}


@given(text=st.text(), json_client=st.booleans(), chunk_bytes=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_any_text_survives(text: str, json_client: bool, chunk_bytes: int) -> None:
    """Whatever can be written in UTF-8 comes out unchanged."""
    sent = json.dumps(text) if json_client else text
    agent = BENTOML_CLIENT if json_client else "x"
    assert read(body(IMAGE, part("prompt", sent)), user_agent=agent, chunk_bytes=chunk_bytes).texts["prompt"] == text


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        *[(text, text) for text in ("50", "7.5", "true", "NaN", "9" * 5000, "[" * 100_000, "not json", "{}")],
        ('"50"', "50"),
    ],
    ids=lambda value: value[:10],
)
def test_json_of_other_values_is_their_text(sent: str, text: str) -> None:
    """Numbers of BentoML's clients become their texts; what is no JSON stays what it is."""
    assert read(body(IMAGE, part("seed", sent)), user_agent=BENTOML_CLIENT).texts == {"seed": text}


def test_none_of_a_json_client_is_unset() -> None:
    """None means the default, where the client is one that can say None."""
    assert read(body(IMAGE, part("seed", "null")), user_agent=BENTOML_CLIENT).texts == {}


def test_file_names_do_not_matter() -> None:
    """A part with any file name is a file, also as filename* (requests), empty, or with a slash."""
    for name in ["", "../../etc/passwd", "ü.png", "x" * 300, 'a\\"b.png']:
        assert read(body(part("image", b"data", filename=name))).files == {"image": b"data"}
    extended = part("image", b"data").replace(b'name="image"', b"name=\"image\"; filename*=utf-8''%C3%BC.png")
    assert read(body(extended)).files == {"image": b"data"}


@pytest.mark.parametrize("value", ["図/薔", "\udcff", "text/\udce9", "é; charset=utf-8"])
def test_headers_that_are_no_ascii(value: str) -> None:
    """A part's Content-Type may be any bytes."""
    label = f"Content-Type: {value}"
    got = read(body(part("image", b"data", label, filename="a.png"), part("prompt", "x", label)))
    assert (got.files, got.texts) == ({"image": b"data"}, {"prompt": "x"})


def test_epilogue_is_ignored() -> None:
    """What follows the last boundary is not part of the form (RFC 2046)."""
    assert read(body(IMAGE, end=f"--{BOUNDARY}--\r\nrest of it".encode())).files["image"] == b"\x89PNG..."


BAD_BODIES = {
    "empty": (b"", MalformedBodyError),
    "only the end": (f"--{BOUNDARY}--\r\n".encode(), MissingFieldError),
    "no file": (body(part("prompt", "x")), MissingFieldError),
    "cut in a part": (body(IMAGE, part("prompt", "x"), end=b"")[:-30], MalformedBodyError),
    "cut before the last boundary": (body(IMAGE, end=b""), MalformedBodyError),
    "cut in the last boundary": (body(IMAGE, end=f"--{BOUNDARY}-".encode()), MalformedBodyError),
    "other boundary": (body(IMAGE).replace(BOUNDARY.encode(), b"other"), MalformedBodyError),
    "text": (b"prompt=a+rose", MalformedBodyError),
    "json": (b'{"prompt": "a rose"}', MalformedBodyError),
    "no name": (body(part("x", "y").replace(b'; name="x"', b"")), MalformedBodyError),
    "no disposition": (body(f"--{BOUNDARY}\r\n\r\nx\r\n".encode()), MalformedBodyError),
    "attachment": (body(part("x", "y").replace(b"form-data", b"attachment")), MalformedBodyError),
    "two dispositions": (body(part("prompt", "x", 'Content-Disposition: form-data; name="seed"')), MalformedBodyError),
    "unknown encoding": (body(part("prompt", "x", "Content-Transfer-Encoding: x-uuencode")), MalformedBodyError),
    "no base64": (body(part("image", "a photo", "Content-Transfer-Encoding: base64")), MalformedBodyError),
    "long header": (body(part("prompt", "x", "X-Long: " + "a" * 100_000)), MalformedBodyError),
    "many headers": (body(part("prompt", "x", *[f"X-{n}: y" for n in range(100)])), MalformedBodyError),
    "invalid utf-8": (body(IMAGE, part("prompt", b"\xff\xfe")), MalformedBodyError),
    "half a surrogate": (body(IMAGE, part("prompt", b"\xed\xa0\x80")), MalformedBodyError),
    "unknown charset": (body(IMAGE, part("prompt", "x", "Content-Type: text/plain;charset=rot13")), MalformedBodyError),
    "other charset": (
        body(IMAGE, part("prompt", b"\xff", "Content-Type: text/plain;charset=big5")),
        MalformedBodyError,
    ),
    "unknown text": (body(IMAGE, part("steps", "5")), InvalidParameterError),
    "unknown file": (body(IMAGE, part("picture", b"x", filename="x")), InvalidParameterError),
    "name that is no text": (body(IMAGE, part("\udcff", b"x")), InvalidParameterError),
    "name in other case": (body(IMAGE, part("Prompt", "x")), InvalidParameterError),
    "doubled text": (body(IMAGE, part("prompt", "x"), part("prompt", "x")), InvalidParameterError),
    "doubled file": (body(IMAGE, IMAGE), InvalidParameterError),
    "address for a file": (body(part("image", "http://127.0.0.1/a.png")), InvalidParameterError),
    "file as text": (body(IMAGE, part("prompt", b"\x89PNG\r\n\0", filename="a.png")), InvalidParameterError),
    "long text": (body(IMAGE, part("prompt", "x" * (TEXT_BYTES + 1))), InvalidParameterError),
    "1001 parts": (body(IMAGE, *[part(f"f{n}", "x") for n in range(1000)]), InvalidParameterError),
}


@pytest.mark.parametrize("chunk_bytes", [0, 5])
@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_bodies(name: str, chunk_bytes: int) -> None:
    """Each way to get a body wrong has its error, with a sentence that can be shown."""
    data, error_class = BAD_BODIES[name]
    with pytest.raises(error_class) as caught:
        read(data, chunk_bytes=chunk_bytes)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    sentence.encode("utf-8")
    json.dumps(caught.value.facts).encode("utf-8")


@pytest.mark.parametrize(
    ("content_type", "error_class"),
    [
        (None, UnsupportedMediaTypeError),
        ("", UnsupportedMediaTypeError),
        ("application/json", UnsupportedMediaTypeError),
        ("application/x-www-form-urlencoded", UnsupportedMediaTypeError),
        ("multipart/mixed; boundary=x", UnsupportedMediaTypeError),
        ("é", UnsupportedMediaTypeError),
        ("multipart/form-data", MalformedBodyError),
        ("multipart/form-data; boundary=", MalformedBodyError),
        ("multipart/form-data; boundary=" + "x" * 300, MalformedBodyError),
    ],
)
def test_bad_content_types(content_type: str | None, error_class: type[InpaintError]) -> None:
    """Only multipart/form-data is read, and only with a boundary."""
    with pytest.raises(error_class):
        read(body(IMAGE), content_type=content_type)


def test_compressed_bodies_are_refused() -> None:
    """A Content-Encoding is not undone, so it is not ignored either."""
    with pytest.raises(UnsupportedMediaTypeError, match="gzip"):
        read(body(IMAGE), content_encoding="gzip")


def test_client_that_leaves() -> None:
    """A client that goes away in the middle of its body has cancelled."""
    with pytest.raises(RequestCancelledError):
        read(body(IMAGE)[:-20], disconnects=True)


@given(
    data=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 600), max_size=4),
    insert_at=st.integers(0, 600),
    chunk_bytes=st.integers(1, 64),
)
@settings(max_examples=200, deadline=None)
def test_damaged_bodies(data: bytes, cuts: Sequence[int], insert_at: int, chunk_bytes: int) -> None:
    """A body damaged anywhere is a form, or an error raised on purpose: nothing else comes out."""
    whole = body(IMAGE, part("prompt", "a rose"), part("seed", "1"))
    for cut in cuts:
        whole = whole[:cut] + whole[cut + 1 :]
    whole = whole[:insert_at] + data + whole[insert_at:]
    try:
        got = read(whole, chunk_bytes=chunk_bytes)
    except InpaintError as error:
        json.dumps(error.facts)
    else:
        assert set(got.files) == {"image"}


def test_every_parameter_is_a_field() -> None:
    """The form knows exactly the parameters of the schema, image and mask."""
    assert set(FIELDS.texts) == set(InpaintParameters.model_fields)
    assert set(FIELDS.files) == {"image", "mask"}
