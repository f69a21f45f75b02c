"""Forms, Accept headers, parameters and prefixes that nobody would send: never a 5xx, nor a changed kept pixel.

A hundred examples a test; by hand, ``--hypothesis-profile=long`` runs ten thousand.
"""

import asyncio
import base64
import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from sd_inpaint.http.middleware.path_prefix import PathPrefix, path_prefix
from sd_inpaint.schema import InpaintParameters, OutputFormat
from tests.field.accept_headers import DEFAULTS
from tests.field.forms import BOUNDARY, IMAGE, MASK, Part, request
from tests.support.edge import INPAINT, App, form, make_app
from tests.support.pictures import hole, opened, photo
from tests.support.real_time import SlowPainter

SENT = np.asarray(photo())
KEPT = np.asarray(hole()) == 0

FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

FORMATS = [*(f"image/{name}" for name in ("png", "webp", "jpeg", "avif")), "application/json", "application/zip"]
FORMATS += ["multipart/mixed", "text/html", "image/gif", "application/*+json", "*/*", "image/*", "application/*", "*"]

FIELDS = [*InpaintParameters.model_fields, "image", "mask", "_charset_", "steps", ""]

HEADERS = [
    "Content-Type: image/png",
    "Content-Type: text/plain",
    "Content-Type: text/plain; charset=iso-8859-1",
    "Content-Type: text/plain; charset=utf-16",
    "Content-Type: text/plain; charset=x",
    "Content-Type: application/json",
    "Content-Type: ;;;=",
    "Content-Type: 図/\udcff; charset=é\udcff",
    "Content-Transfer-Encoding: base64",
    "Content-Transfer-Encoding: quoted-printable",
    "Content-Transfer-Encoding: gzip\udcff",
    "Content-Length: 3",
    "X: y",
]

VALUES = ["", " ", "0", "1", "-1", "1.5", "150", "true", "null", '"7"', "{}", "webp", "json", "png", "full", "é", "\0"]
DATA = [IMAGE, MASK, IMAGE[:100], base64.b64encode(MASK), base64.encodebytes(IMAGE), b"data:image/png;base64,AAAA"]

texts = st.sampled_from(VALUES) | st.text(max_size=20)
parts = st.builds(
    Part,
    st.sampled_from(FIELDS),
    st.sampled_from(DATA) | texts.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=40),
    st.lists(st.sampled_from(HEADERS), max_size=2, unique=True).map(tuple),
    st.sampled_from(
        [
            "",
            '; filename="a.png"',
            '; filename=""',
            "; filename*=utf-8''%FF",
            '; name="x"',
            ";;=",
            '; filename="図\udcff"',
        ]
    ),
)
qualities = st.sampled_from(["", ";q=0", ";q=0.1", ";q=.5", "; q=0.9", ";q=1", ";q=1.0", ";level=1", ";q=x", ";q=2"])
items = st.tuples(st.sampled_from(FORMATS) | st.text("abc/*;,=q01. ", max_size=8), qualities)
accepts = st.lists(items.map("".join), max_size=5).map(", ".join) | st.sampled_from(
    [accept for accept in DEFAULTS.values() if isinstance(accept, str)]
)


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    """The edge and the real painter, over a device that paints nothing in no time."""
    with make_app(painter=SlowPainter) as made:
        assert made.painter.engine.wait_loaded(20)
        made.painter.slow.step_seconds = 0.0
        made.client.headers.pop("accept", None)
        yield made


def check(response: Any) -> Any:
    """Asserts that an answer is a result, or an error of the caller's in the one shape; gives the error."""
    if response.status_code == 200:
        return None
    names_a_lora = response.status_code == 422 and response.json()["code"] == "invalid_loras"
    assert names_a_lora or response.status_code in (400, 406, 413, 415), response.text
    error = response.json()
    assert set(error) >= {"error", "code"}
    assert len(response.content) < 2000
    return error


def pictures(response: Any) -> list[bytes]:
    """The files in an answer, whatever it is wrapped in."""
    match response.headers["content-type"].partition(";")[0]:
        case "application/json":
            body = response.json()
            return [base64.b64decode(each["image"]) for each in body.get("images", [body])]
        case "application/zip":
            with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
                return [archive.read(name) for name in archive.namelist()]
        case "multipart/mixed":
            return [piece.partition(b"\r\n\r\n")[2] for piece in response.content.split(b"\r\n--")[:-1]]
    return [response.content]


def check_kept(response: Any) -> None:
    """Asserts that what was to be kept is as it was sent, in every lossless file of an answer."""
    files = pictures(response)
    assert files
    for file in files:
        if file.startswith(b"\x89PNG"):
            assert (opened(file)[..., :3][KEPT] == SENT[KEPT]).all()


@FUZZ
@given(extra=st.lists(parts, max_size=4, unique_by=lambda part: part.name), cut=st.none() | st.integers(0, 400))
def test_forms(app: App, extra: list[Part], cut: int | None) -> None:
    """Any form is painted or refused; where image and mask are the good ones, what is kept is kept."""
    arguments = request(*extra)
    if cut is not None:
        arguments["content"] = arguments["content"][: -1 - cut]
    response = app.client.post(INPAINT, **arguments)
    error = check(response)
    changed = {part.name for part in extra}
    if error is None and not changed & {"image", "mask", "mask_invert", "mask_grow", "mask_blur"}:
        check_kept(response)


@FUZZ
@given(body=st.binary(max_size=300), at=st.integers(0, 1500), length=st.integers(0, 60))
def test_damaged_forms(app: App, body: bytes, at: int, length: int) -> None:
    """A form with anything in any place of it is painted or refused."""
    arguments = request()
    good: bytes = arguments["content"]
    place = at if at < 300 else len(good) - (at - 300)
    arguments["content"] = good[: max(0, place)] + body + good[max(0, place) + length :]
    check(app.client.post(INPAINT, **arguments))


def wish(accept: str) -> str | None:
    """What a header names and prefers to all else, by the rule's words and apart from the service's code."""
    found: dict[str, float] = {}
    for item in accept.lower().split(","):
        name, *more = [piece.strip() for piece in item.split(";")]
        q = [piece[2:] for piece in more if piece.startswith("q=")]
        if re.fullmatch(r"[^\s/;,=]+/[^\s/;,=]+|\*", name) and all(re.fullmatch(r"(0|1)?(\.\d+)?", v) for v in q):
            quality = float(q[0]) if q else 1.0
            if quality <= 1:
                found[name] = max(found.get(name, 0.0), quality)
    for name, quality in found.items():
        others = [q for n, q in found.items() if n != name and not (name == FORMATS[4] and n.endswith("+json"))]
        if name in FORMATS[:7] and quality > max(others, default=0.0):
            return name
    return None


@FUZZ
@given(
    accept=accepts,
    output_format=st.none() | st.sampled_from([str(each) for each in OutputFormat]),
    quality=st.none() | st.integers(-1, 102),
    num_images=st.sampled_from([1, 1, 2]),
)
def test_formats(app: App, accept: str, output_format: str | None, quality: int | None, num_images: int) -> None:
    """The answer is what the caller asked for in words, else a PNG, and a lossless one keeps what is kept."""
    sent = {"output_format": output_format, "quality": quality, "num_images": num_images, "num_inference_steps": 1}
    fields = {name: str(value) for name, value in sent.items() if value is not None}
    response = app.client.post(INPAINT, headers=[("Accept", accept)], **form(**fields))
    error = check(response)
    if error is not None:
        assert error["code"] in ("not_acceptable", "invalid_parameter")
        assert not (error["code"] == "not_acceptable" and output_format)
        assert not (error["code"] == "invalid_parameter" and quality is None)
        return
    media_type = response.headers["content-type"].partition(";")[0]
    check_kept(response)
    if num_images > 1:
        assert media_type in ("application/zip", "multipart/mixed", "application/json")
    elif output_format is not None:
        assert media_type == ("application/json" if output_format == "json" else f"image/{output_format}")
    elif wanted := wish(accept):
        assert media_type == wanted
    elif re.search(r"\*/\*(?!\s*;)|image/\*(?!\s*;)", accept) and not re.search(r"q=0(?!\.)", accept):
        assert media_type == "image/png"


@FUZZ
@given(sent=st.dictionaries(st.sampled_from([*InpaintParameters.model_fields]), texts, max_size=5))
def test_parameters(app: App, sent: dict[str, str]) -> None:
    """Any text in any field is painted with, or refused with the field's name."""
    extra = [Part(name, text.encode("utf-8", "replace")) for name, text in sent.items()]
    response = app.client.post(INPAINT, **request(*extra))
    error = check(response)
    if error is not None and BOUNDARY not in str(sent):
        assert error.get("field", error["code"]) in {*sent, "not_acceptable"}
    elif error is None and not sent.keys() & {"mask_invert", "mask_grow", "mask_blur"}:
        check_kept(response)


@FUZZ
@given(header=st.text("/ab.-~%@+,\\:?#<\"' \t\x00é", max_size=30) | st.text(max_size=30))
def test_prefixes(header: str) -> None:
    """Whatever a caller says the prefix is, addresses begin with a plain path or with nothing."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(path_prefix(Request(scope)))

    async def unused(*_: object) -> Any:
        raise AssertionError

    raw = [(b"x-forwarded-prefix", header.encode("utf-8", "replace"))]
    scope = {"type": "http", "method": "GET", "path": "/x/y", "headers": raw, "query_string": b""}
    asyncio.run(PathPrefix(app, [], None)(scope, unused, unused))
    assert re.fullmatch(r"(/[A-Za-z0-9_.~@%+-]+)*", seen[0])
    assert not re.search(r"//|/\.\.?(/|$)", seen[0])
    assert len(seen[0]) <= 256
