"""What clients put on the wire without being asked: Accept, forms, prefixes, preflights, masks that say nothing."""

import base64
import io
import quopri
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from sd_inpaint.schema import OutputFormat
from tests.field.accept_headers import DEFAULTS, PNG, WISHES
from tests.field.forms import BOUNDARY, IMAGE, MASK, Part, file, request, text
from tests.support.edge import INPAINT, ORIGIN, App, check_shape, form, make_app
from tests.support.pictures import SIZE, hole, opened, photo, written
from tests.support.real_time import SlowPainter, wait_for

JOBS = "/sd-inpaint/jobs"
EDITS = "/v1/images/edits"

KEPT = np.asarray(hole()) == 0


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[App]:
    """The edge with the real runner and store, around a painter whose device only takes its time."""
    with make_app(painter=SlowPainter, state_dir=tmp_path) as app:
        assert app.painter.engine.wait_loaded(20)
        yield app


def done(app: App, **changes: Any) -> str:
    """Has a job done; gives the path of its result."""
    response = app.client.post(JOBS, **form(**changes))
    assert response.status_code == 202, response.text
    path = f"{JOBS}/{response.json()['id']}"
    wait_for(lambda: app.client.get(path).json()["state"] == "done")
    return f"{path}/result"


def accepting(app: App, accept: str | list[str] | None) -> list[tuple[str, str]]:
    """The headers of a client that sends just this Accept, not the test client's."""
    app.client.headers.pop("accept", None)
    lines = [accept] if isinstance(accept, str) else accept or []
    return [("Accept", line) for line in lines]


def send(app: App, headers: list[tuple[str, str]], path: str = INPAINT, **changes: Any) -> Any:
    """Posts a good form with raw headers, which may repeat."""
    built = httpx.Request("POST", "http://testserver" + path, **form(**changes))
    raw = [*built.headers.multi_items(), *headers]
    return app.client.post(path, content=built.read(), headers=raw)


# --- Accept ---


@pytest.mark.contract
@pytest.mark.parametrize("who", DEFAULTS)
def test_nobody_s_own_accept_header_takes_the_png_away(app: App, who: str) -> None:
    """A caller who asked for nothing gets the guide's PNG, whose kept pixels are those that were sent."""
    response = send(app, accepting(app, DEFAULTS[who]))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == PNG
    assert (opened(response.content)[KEPT] == np.asarray(photo())[KEPT]).all()


@pytest.mark.contract
@pytest.mark.parametrize("who", WISHES)
def test_a_named_and_preferred_format_is_sent(app: App, who: str) -> None:
    """A caller who names a format, and likes it better than all else, gets it."""
    accept, media_type = WISHES[who]
    assert send(app, accepting(app, accept)).headers["content-type"] == media_type


def test_the_same_headers_get_a_job_s_png(jobs: App) -> None:
    """A job's result opened in a tab, shown by an <img> or fetched by a library is the PNG too."""
    path = done(jobs)
    for who, accept in DEFAULTS.items():
        response = jobs.client.get(path, headers=accepting(jobs, accept))
        assert response.headers["content-type"] == PNG, who
    for who, (accept, media_type) in WISHES.items():
        response = jobs.client.get(path, headers=accepting(jobs, accept))
        assert response.headers["content-type"] == media_type, who


@pytest.mark.parametrize("who", DEFAULTS)
def test_several_pictures_are_a_zip_of_pngs_for_them(app: App, who: str) -> None:
    """The same clients get several pictures in the one container, each a PNG."""
    response = send(app, accepting(app, DEFAULTS[who]), num_images="2")
    if who.startswith("a generator"):  # it names JSON, zip and multipart alike
        assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.namelist() == ["1-seed-42.png", "2-seed-43.png"]


@pytest.mark.contract
@pytest.mark.parametrize("accept", ["image/webp", "text/html", *[v for v in DEFAULTS.values() if isinstance(v, str)]])
def test_errors_are_json_whatever_is_accepted(app: App, accept: str) -> None:
    """What went wrong is said in JSON, also to those who accept none."""
    check_shape(send(app, accepting(app, accept), seed="x"), 400, "invalid_parameter")


@pytest.mark.contract
@pytest.mark.parametrize("accept", ["text/html", "image/gif", "text/html, image/heic", "image/png;q=0"])
def test_nothing_that_is_written(app: App, accept: str) -> None:
    """Only who accepts nothing that is written here gets a 406, which says what is."""
    body = check_shape(send(app, accepting(app, accept)), 406, "not_acceptable")
    assert "image/webp" in body["offered"]


# --- output_format and quality ---


@pytest.mark.contract
@pytest.mark.parametrize("accept", ["*/*", "image/jpeg", "application/json", "image/gif", "image/png;q=0"])
@pytest.mark.parametrize("output_format", list(OutputFormat))
def test_output_format_wins_over_accept(app: App, output_format: OutputFormat, accept: str) -> None:
    """Who cannot set headers, or whose library sets them, says it in the form."""
    response = send(app, accepting(app, accept), output_format=str(output_format))
    assert response.status_code == 200, response.text
    media_type = "application/json" if output_format is OutputFormat.JSON else f"image/{output_format}"
    assert response.headers["content-type"] == media_type
    if output_format is OutputFormat.PNG:
        assert (opened(response.content)[KEPT] == np.asarray(photo())[KEPT]).all()


@pytest.mark.contract
@pytest.mark.parametrize("sent", ["jpg", "JPEG", " webp ", "PNG"])
def test_output_format_in_other_spellings(app: App, sent: str) -> None:
    """File names have these spellings, and so do callers."""
    name = sent.strip().lower().replace("jpg", "jpeg")
    assert app.post(output_format=sent).headers["content-type"] == f"image/{name}"


@pytest.mark.contract
@pytest.mark.parametrize("sent", ["gif", "image/webp", "zip"])
def test_unknown_output_formats(app: App, sent: str) -> None:
    """A format that is not written is refused with those that are."""
    body = check_shape(app.post(output_format=sent), 400, "invalid_parameter")
    assert (body["field"], body["choices"]) == ("output_format", ["png", "webp", "jpeg", "avif", "json"])


@pytest.mark.contract
@pytest.mark.parametrize("output_format", ["webp", "jpeg", "avif"])
def test_quality(app: App, output_format: str) -> None:
    """A lower quality is a smaller file, however the lossy format was asked for."""
    sizes = [len(app.post(output_format=output_format, quality=quality).content) for quality in ("1", "50", "100")]
    assert sizes == sorted(set(sizes))
    by_header = app.post({"Accept": f"image/{output_format}"}, quality="50")
    assert len(by_header.content) == sizes[1]


@pytest.mark.contract
@pytest.mark.parametrize(
    "changes",
    [
        {"quality": "80"},
        {"quality": "80", "output_format": "png"},
        {"quality": "80", "output_format": "json"},
        {"quality": "0", "output_format": "webp"},
        {"quality": "101", "output_format": "webp"},
        {"quality": "high", "output_format": "webp"},
    ],
)
def test_quality_of_what_has_none(app: App, changes: dict[str, str]) -> None:
    """A quality out of bounds, or for a format without, is refused before anything is painted."""
    before = app.painted()
    assert check_shape(app.post(**changes), 400, "invalid_parameter")["field"] == "quality"
    assert check_shape(app.client.post(JOBS, **form(**changes)), 400, "invalid_parameter")["field"] == "quality"
    assert app.painted() == before


@pytest.mark.contract
def test_several_pictures_in_an_output_format(app: App) -> None:
    """The pictures in a zip, a multipart or JSON have the format that was asked for."""
    several = {"num_images": "2", "output_format": "webp", "quality": "50"}
    with zipfile.ZipFile(io.BytesIO(app.post(**several).content)) as archive:
        assert archive.namelist() == ["1-seed-42.webp", "2-seed-43.webp"]
        assert archive.read("1-seed-42.webp")[8:12] == b"WEBP"
    parts = app.post({"Accept": "multipart/mixed"}, **several).content
    assert parts.count(b"Content-Type: image/webp\r\n") == 2
    shown = app.post({"Accept": "application/json"}, **several).json()["images"]
    assert [each["media_type"] for each in shown] == ["image/webp"] * 2
    assert base64.b64decode(shown[0]["image"])[8:12] == b"WEBP"
    assert app.post(num_images="2", output_format="json").headers["content-type"] == "application/json"
    # Accept for single pictures does not refuse them, since the caller has said what they want.
    assert app.post({"Accept": "image/webp"}, **several).headers["content-type"] == "application/zip"


def test_a_job_keeps_its_output_format(jobs: App) -> None:
    """The result comes in the job's format, in another where that is asked for clearly, and by the address in any."""
    path = done(jobs, output_format="webp", quality="30")

    def media_type(accept: str, query: str = "") -> str:
        response = jobs.client.get(path + query, headers=accepting(jobs, accept))
        assert response.status_code == 200, response.text
        return str(response.headers["content-type"])

    assert media_type("*/*") == "image/webp"
    assert media_type("text/html,image/avif,image/webp,*/*;q=0.8") == "image/webp"
    assert media_type("image/png") == PNG
    assert media_type("image/jpeg, */*;q=0.1") == "image/jpeg"
    assert media_type("image/jpeg", "?output_format=avif") == "image/avif"
    assert media_type("*/*", "?output_format=png") == PNG
    assert media_type("*/*", "?output_format=json") == "application/json"
    shown = jobs.client.get(path, headers={"Accept": "application/json"}).json()
    assert shown["media_type"] == "image/webp"
    low, high = (jobs.client.get(f"{path}?output_format=webp&quality={quality}") for quality in (30, 95))
    assert jobs.client.get(path).content == low.content
    assert len(low.content) < len(high.content)
    for query in ("?output_format=gif", "?output_format=png&quality=50", "?quality=0"):
        check_shape(jobs.client.get(path + query), 400, "invalid_parameter")


def test_a_job_s_format_that_cannot_hold_it_is_refused_at_once(jobs: App) -> None:
    """Nobody waits for minutes to hear that WebP ends at 16,383 pixels."""
    wide = {"image": written(photo((16_384, 1))), "mask": written(hole((16_384, 1)))}
    check_shape(jobs.client.post(JOBS, **form(output_format="webp", **wide)), 413, "image_too_large")


def edit(app: App, **changes: Any) -> Any:
    """Posts an edit in OpenAI's dialect."""
    erased = Image.new("RGBA", SIZE, (0, 0, 0, 255))
    erased.putalpha(Image.eval(hole(), lambda level: 255 - level))
    return app.client.post(EDITS, **form(mask=written(erased), **changes))


@pytest.mark.parametrize("output_format", ["webp", "jpeg", "avif"])
def test_openai_s_compression(app: App, output_format: str) -> None:
    """output_compression is the quality there, from 0 to 100."""
    sizes = []
    for compression in ("0", "50", "100"):
        answer = edit(app, output_format=output_format, output_compression=compression)
        assert answer.status_code == 200, answer.text
        sizes.append(len(answer.json()["data"][0]["b64_json"]))
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("compression", ["-1", "101", "x", "50"])
def test_openai_s_compression_of_a_png(app: App, compression: str) -> None:
    """A PNG keeps every pixel: only the default of 100 goes with it."""
    assert edit(app, output_compression="100").status_code == 200
    answer = edit(app, output_compression=compression)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "output_compression"


# --- forms ---

OCTETS = "Content-Type: application/octet-stream"
DATA_URL = b"data:image/png;base64," + base64.b64encode(IMAGE)

FILES: dict[str, tuple[Part, ...]] = {
    "Dart, generators: a Content-Type and no file name": (file("image", "Content-Type: image/png", more=""),),
    "a script of its own: neither": (file("image", more=""), file("mask", more="")),
    "PowerShell: octets and no file name": (file("image", OCTETS, more=""),),
    "a generator that labels everything as text": (
        file("image", "Content-Type: text/plain; charset=UTF-8", more=""),
        file("mask", "Content-Type: text/plain", more=""),
    ),
    "a generator that labels everything as JSON": (file("mask", "Content-Type: application/json", more=""),),
    "an empty file name": (file("image", more='; filename=""'), file("mask", more="; filename=")),
    "requests: filename* alone": (file("image", more="; filename*=utf-8''%C3%BC.png"),),
    "a browser: a file name with quotes": (file("image", more='; filename="a%22b.png"'),),
    "Swift: a wrong type": (file("image", "Content-Type: video/mp4"),),
    "Indy (Delphi), mail libraries: base64 in lines of 76": (
        file("image", "Content-Transfer-Encoding: base64", data=base64.encodebytes(IMAGE)),
        file("mask", "Content-Transfer-Encoding: BASE64", data=base64.encodebytes(MASK).replace(b"\n", b"\r\n")),
    ),
    "a page: canvas.toDataURL() put into a FormData": (
        file("mask", data=b"data:image/png;base64," + base64.b64encode(MASK), more=""),
    ),
    "the same in lines": (file("mask", data=b"data:image/png;base64,\n" + base64.encodebytes(MASK), more=""),),
    "Dart, new Blob([dataUrl]): a file name too": (file("image", data=DATA_URL),),
    "n8n, PHP: a picture's label too": (file("image", "Content-Type: image/png", data=DATA_URL, more=""),),
    "JSON.stringify(dataUrl)": (file("image", "Content-Type: application/json", data=b'"' + DATA_URL + b'"', more=""),),
    "the alphabet for URLs, not padded": (
        file("image", data=b"data:image/png;base64," + base64.urlsafe_b64encode(IMAGE).rstrip(b"="), more=""),
    ),
    "base64 alone": (file("image", data=base64.b64encode(IMAGE), more=""),),
    "the same in a file": (file("mask", data=base64.encodebytes(MASK)),),
}


@pytest.mark.contract
@pytest.mark.parametrize("who", FILES)
def test_a_file_is_a_file_whatever_its_headers_say(app: App, who: str) -> None:
    """A part that can only be a file is taken as one: the answer is that to a plain form."""
    response = app.client.post(INPAINT, **request(*FILES[who]))
    assert response.status_code == 200, response.text
    assert response.content == app.client.post(INPAINT, **request()).content


JSON_LABEL = "Content-Type: application/json"

TEXTS: dict[str, tuple[tuple[Part, ...], dict[str, object]]] = {
    "requests' files=: a file name": ((text("prompt", "a cat", more='; filename="prompt"'),), {"prompt": "a cat"}),
    "Retrofit's @Part: a text type": (
        (text("prompt", "un café", "Content-Type: text/plain; charset=utf-8", "Content-Length: 8"),),
        {"prompt": "un café"},
    ),
    "Postman: a text file chosen for a text": (
        (text("prompt", "a cat\n", "Content-Type: text/plain", more='; filename="prompt.txt"'),),
        {"prompt": "a cat\n"},
    ),
    "a page: new Blob([JSON.stringify(7)])": (
        (text("seed", "7", JSON_LABEL, more='; filename="blob"'),),
        {"seed": 7},
    ),
    "OpenAPI generators: JSON, and labelled so": (
        (
            text("prompt", '"a \\"red\\" caf\\u00e9"', JSON_LABEL),
            text("seed", "7", JSON_LABEL),
            text("guidance_scale", "1.5", f"{JSON_LABEL}; charset=utf-8"),
            text("mask_invert", "true", JSON_LABEL),
            text("padding", "null", JSON_LABEL),
        ),
        {"prompt": 'a "red" café', "seed": 7, "guidance_scale": 1.5, "mask_invert": True, "padding": None},
    ),
    "Retrofit's @Part String: labelled JSON, and no JSON": (
        (text("prompt", "a cat", JSON_LABEL),),
        {"prompt": "a cat"},
    ),
    "a prompt in quotes stays in quotes": ((text("prompt", '"a cat"'),), {"prompt": '"a cat"'}),
    "Windows programs: ISO-8859-1": (
        (text("prompt", "un café".encode("latin-1"), "Content-Type: text/plain; charset=ISO-8859-1"),),
        {"prompt": "un café"},
    ),
    "Windows programs: its quotes, labelled as ISO-8859-1": (
        (text("prompt", "“a – b”".encode("cp1252"), 'Content-Type: text/plain; charset="iso-8859-1"'),),
        {"prompt": "“a – b”"},
    ),
    "Shift_JIS": (
        (text("prompt", "薔薇".encode("shift_jis"), "Content-Type: text/plain; charset=Shift_JIS"),),
        {"prompt": "薔薇"},
    ),
    "a browser's form with accept-charset: _charset_": (
        (text("_charset_", "windows-1252"), text("prompt", "un café".encode("cp1252"))),
        {"prompt": "un café"},
    ),
    "a browser's form with a hidden _charset_": (
        (text("_charset_", "UTF-8"), text("prompt", "un café")),
        {"prompt": "un café"},
    ),
    "Indy (Delphi): quoted-printable": (
        (text("prompt", quopri.encodestring("un café".encode()), "Content-Transfer-Encoding: quoted-printable"),),
        {"prompt": "un café"},
    ),
    "HTML forms, Swagger UI: inputs that nobody filled in": (
        tuple(
            text(name, blank)
            for name, blank in (
                ("seed", ""),
                ("padding", ""),
                ("scheduler", ""),
                ("guidance_scale", " "),
                ("mask_invert", "\r\n"),
                ("output_format", ""),
                ("quality", ""),
                ("strength", ""),
            )
        ),
        {"seed": 42, "padding": None, "scheduler": "default", "guidance_scale": 7.5, "mask_invert": False},
    ),
    "Windows' editors, .NET: a byte order mark": (
        (text("prompt", "\ufeffa cat"), text("seed", "\ufeff7")),
        {"prompt": "a cat", "seed": 7},
    ),
    "the same in UTF-16": (
        (text("prompt", "a cat".encode("utf-16"), "Content-Type: text/plain; charset=utf-16"),),
        {"prompt": "a cat"},
    ),
    "a blank prompt is a prompt": ((text("prompt", ""), text("negative_prompt", " ")), {"negative_prompt": " "}),
}


@pytest.mark.parametrize("who", TEXTS)
def test_a_text_is_what_its_sender_means(app: App, who: str) -> None:
    """A part that can only be a text is read as its sender means it."""
    parts, expected = TEXTS[who]
    response = app.client.post(INPAINT, **request(*parts))
    assert response.status_code == 200, response.text
    parameters = app.painter.requests[0].parameters.model_dump()
    assert {name: parameters[name] for name in expected} == expected


def test_a_line_before_the_parts(app: App) -> None:
    """Mail libraries put a line for readers before the first boundary; it is no part of the form."""
    sent = request()
    sent["content"] = b"This is a multi-part message in MIME format.\r\n\r\n" + sent["content"]
    assert app.client.post(INPAINT, **sent).status_code == 200


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.replace(b"\r\n", b"\n"), "end in CR LF"),
        (lambda content: content.replace(f"--{BOUNDARY}".encode(), b"--other"), f"no line '--{BOUNDARY}'"),
        (lambda content: b"x" * 5000 + b"\r\n" + content, f"no line '--{BOUNDARY}'"),
        (lambda content: content[:3], "truncated or empty"),
        (lambda content: b"", "truncated or empty"),
    ],
    ids=["line feeds alone", "another boundary", "the form begins far in", "a part of the boundary", "nothing"],
)
def test_what_is_no_form_is_told_what_is_wrong(app: App, change: Callable[[bytes], bytes], said: str) -> None:
    """Who writes forms by hand reads what to mend, in words that are not a parser's."""
    sent = request()
    sent["content"] = change(sent["content"])
    assert said in check_shape(app.client.post(INPAINT, **sent), 400, "malformed_body")["error"]


def test_blank_headers_are_not_sent(app: App) -> None:
    """A header that a client's settings leave blank is none."""
    assert app.post({"Content-Encoding": "", "X-Deadline-Seconds": " "}).status_code == 200


@pytest.mark.parametrize("path", [f"{INPAINT}/", f"/{INPAINT}", f"/{INPAINT}//"])
def test_slashes_too_many(app: App, path: str) -> None:
    """An address that is right but for a slash is refused with the right one, for a form is not sent twice."""
    response = app.client.post(f"http://testserver{path}", **form())
    assert f"but {INPAINT!r} is" in check_shape(response, 404, "not_found")["error"]


def test_a_picture_that_webp_cannot_hold(app: App) -> None:
    """Who accepts other formats too gets one that can hold it; who does not, a 413 before anything is painted."""
    wide = {"image": written(Image.new("RGB", (16384, 2))), "mask": written(hole((16384, 2)))}
    for accept in ("image/webp, */*;q=0.8", "image/webp, image/png;q=0.5"):
        assert app.post({"Accept": accept}, **wide).headers["content-type"] == "image/png"
    check_shape(app.post({"Accept": "image/webp"}, **wide), 413, "image_too_large")
    check_shape(app.post({"Accept": "*/*"}, output_format="webp", **wide), 413, "image_too_large")


def test_web_ui_callers_read_of_their_own_fields(app: App) -> None:
    """A rule about two fields names them as that caller does."""
    sent = {"init_images": [base64.b64encode(IMAGE).decode()], "mask": base64.b64encode(MASK).decode()}
    answer = app.client.post("/sdapi/v1/img2img", json={**sent, "steps": 4, "denoising_strength": 0.1})
    assert "denoising_strength × steps must be at least 1" in answer.text


BAD: dict[str, tuple[Part, str, str]] = {
    "a picture for a prompt": (file("image", "Content-Type: image/png"), "prompt", "invalid_parameter"),
    "the same without any label": (file("image", more=""), "prompt", "invalid_parameter"),
    "the same as octets": (file("image", OCTETS), "prompt", "invalid_parameter"),
    "a browser: no file chosen": (file("image", OCTETS, data=b"", more='; filename=""'), "image", "missing_field"),
    "a blank text for a file": (file("mask", data=b"", more=""), "mask", "missing_field"),
    "an address for a file": (
        file("mask", data=b"http://127.0.0.1/m.png", more=""),
        "mask",
        "invalid_parameter",
    ),
    "a path for a file": (file("image", data=b"/photos/a.png", more=""), "image", "invalid_parameter"),
    "base64 that is none": (
        file("image", "Content-Transfer-Encoding: base64", data=b"%%%"),
        "image",
        "malformed_body",
    ),
    "an unknown charset": (
        text("prompt", "x", "Content-Type: text/plain; charset=klingon"),
        "prompt",
        "malformed_body",
    ),
    "a codec that is no charset": (
        text("prompt", "x", "Content-Type: text/plain; charset=hex"),
        "prompt",
        "malformed_body",
    ),
}


@pytest.mark.parametrize("who", BAD)
def test_what_cannot_be_meant_is_refused_by_name(app: App, who: str) -> None:
    """A picture for a text, or a text for a picture, is a 400 that names the field and is short."""
    part, field, code = BAD[who]
    sent = Part(field, part.data, part.headers, part.more)
    body = check_shape(app.client.post(INPAINT, **request(sent)), 400, code)
    assert field in body["error"]
    assert body.get("field", field) == field
    assert app.painted() == 0


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("more", ["", '; filename="a"'])
def test_no_picture_is_a_prompt(app: App, image_format: str, more: str) -> None:
    """Whatever its format and however it is labelled, a picture in a text field is refused as what it is."""
    part = Part("prompt", written(photo((8, 8)), image_format), (OCTETS,), more)
    body = check_shape(app.client.post(INPAINT, **request(part)), 400, "invalid_parameter")
    assert body["error"] == "The field 'prompt' must be text, not a file."


def test_no_mask_chosen_in_openai_s_dialect(app: App) -> None:
    """There an empty mask is none: the image's own transparency is repainted."""
    erased = Image.merge("RGBA", (*photo().split(), Image.eval(hole(), lambda level: 255 - level)))
    empty = file("mask", OCTETS, data=b"", more='; filename=""')
    arguments = request(file("image", data=written(erased)), empty)
    assert app.client.post(EDITS, **arguments).status_code == 200


# --- in front of it ---

PREFLIGHT = {
    **ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Private-Network": "true",
}


def test_preflight_to_a_private_network() -> None:
    """Chrome asks before a page of the internet calls a private address: yes to origins that may call, to no others."""
    for origins, allowed in ((("*",), True), ((ORIGIN["Origin"],), True), (("https://other.example",), False)):
        with make_app(cors_origins=origins) as app:
            response = app.client.options(INPAINT, headers=PREFLIGHT)
        assert response.status_code == (200 if allowed else 403)
        assert response.headers.get("access-control-allow-private-network") == ("true" if allowed else None)


PREFIXES: dict[str, tuple[dict[str, str], str]] = {
    "Traefik, nginx": ({"X-Forwarded-Prefix": "/paint"}, "/paint"),
    "a slash at its end": ({"X-Forwarded-Prefix": "/paint/"}, "/paint"),
    "several folders": ({"X-Forwarded-Prefix": "/team-a/v1.2/paint"}, "/team-a/v1.2/paint"),
    "two proxies": ({"X-Forwarded-Prefix": "/team, /paint"}, "/team/paint"),
    "this service's own word": ({"X-Forwarded-Prefix": "/sd-inpaint"}, "/sd-inpaint"),
    "none": ({}, ""),
    "no more than a slash": ({"X-Forwarded-Prefix": "/"}, ""),
    "blank": ({"X-Forwarded-Prefix": ""}, ""),
    **{
        f"not a path: {bad[:30]!r}": ({"X-Forwarded-Prefix": bad}, "")
        for bad in (
            "paint",
            "//evil.example",
            "/a//b",
            "http://evil.example/",
            "/\\evil.example",
            "/../x",
            "/a/./b",
            "/a?b=c",
            "/a#b",
            '/"><script>',
            "/a b",
            "/a, //b",
            "/" + "a" * 300,
            "/ü".encode().decode("latin-1"),
        )
    },
}


@pytest.mark.parametrize("who", PREFIXES)
def test_a_job_s_addresses_lead_there_behind_a_prefix(jobs: App, who: str) -> None:
    """Location and every address in the body begin with the proxy's path, and end where the job is."""
    headers, prefix = PREFIXES[who]
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    response = jobs.client.post(JOBS, headers=raw, **form())
    body = response.json()
    path = f"{JOBS}/{body['id']}"
    assert response.headers["location"] == body["url"] == prefix + path
    assert body["events"] == f"{prefix}{path}/events"
    wait_for(lambda: jobs.client.get(path).json()["state"] == "done")
    assert jobs.client.get(path, headers=raw).json()["result"] == f"{prefix}{path}/result"
    assert f'"url": "{prefix}{path}"' in jobs.client.get(f"{path}/events", headers=raw).text
    servers = jobs.client.get("/docs.json", headers=raw).json()["servers"]
    assert servers == [{"url": prefix or "."}]


@pytest.mark.parametrize("strips", [True, False], ids=["the proxy strips it", "it comes along"])
@pytest.mark.parametrize("way", ["setting", "header", "root_path"])
def test_every_way_to_know_the_prefix(tmp_path: Path, way: str, strips: bool) -> None:
    """Setting, header and ASGI's root_path are the same, whether the proxy takes the prefix off the path or not."""
    setting = {"root_path": "/paint"} if way == "setting" else {}
    headers = {"X-Forwarded-Prefix": "/paint"} if way == "header" else {}
    with make_app(painter=SlowPainter, state_dir=tmp_path, **setting) as app:
        assert app.painter.engine.wait_loaded(20)
        client = TestClient(app.client.app, root_path="/paint") if way == "root_path" else app.client
        before = "" if strips else "/paint"
        response = client.post(before + JOBS, headers=headers, **form())
        assert response.status_code == 202, response.text
        job = response.json()["id"]
        assert response.headers["location"] == f"/paint{JOBS}/{job}"
        assert client.get(f"{before}{JOBS}/{job}", headers=headers).status_code == 200
        assert client.get(f"{before}/", headers=headers).headers["content-type"].startswith("text/html")
        assert client.get(f"{before}/page/page.css", headers=headers).status_code == 200
        check_shape(client.get(f"{before}/nothing", headers=headers), 404, "not_found")


def test_the_page_s_addresses_need_a_slash_behind_the_prefix() -> None:
    """/paint leads to /paint/, since the page's own addresses are relative."""
    with make_app(root_path="/paint/") as app:
        response = app.client.get("/paint", follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (308, "/paint/")


def test_keys_hold_behind_a_prefix() -> None:
    """A prefix opens no door: what needs a key needs it there too, and what is open is open."""
    with make_app(root_path="/paint", api_keys=("key",)) as app:
        check_shape(app.client.post(f"/paint{INPAINT}", **form()), 401, "unauthorized")
        assert app.client.get("/paint/livez").status_code == 200
        answer = app.client.post(f"/paint{EDITS}", **form())
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "invalid_request_error"


# --- masks that say nothing ---

DRAWN = Image.new("RGBA", SIZE, (0, 0, 0, 0))
DRAWN.paste((0, 0, 0, 255), mask=hole())

WARNED: dict[str, tuple[Image.Image, dict[str, str], str]] = {
    "black throughout": (Image.new("L", SIZE), {}, "0 of 255"),
    "an app: black strokes on nothing": (DRAWN, {}, "0 of 255"),
    "numpy: zeros and ones": (Image.eval(hole(), lambda level: level // 255), {}, "1 of 255"),
    "white throughout, inverted": (Image.new("L", SIZE, 255), {"mask_invert": "true"}, "left no white"),
    "narrowed to nothing": (hole(), {"mask_grow": "-256"}, "left no white"),
}


@pytest.mark.parametrize("who", WARNED)
def test_a_mask_without_white_gets_a_hint(jobs: App, who: str) -> None:
    """The picture comes back with a hint, in a header that scripts may read, and in JSON; also from a job."""
    mask, changes, fact = WARNED[who]
    response = jobs.client.post(INPAINT, headers=ORIGIN, **form(mask=written(mask), **changes))
    assert response.status_code == 200
    assert fact in response.headers["x-warning"]
    assert "X-Warning" in response.headers["access-control-expose-headers"]
    assert np.abs(opened(response.content).astype(int) - np.asarray(photo())).max() <= 1
    shown = jobs.client.post(INPAINT, **form(mask=written(mask), output_format="json", **changes)).json()
    assert shown["warnings"] == [response.headers["x-warning"]]
    result = jobs.client.get(done(jobs, mask=written(mask), **changes))
    assert result.headers["x-warning"] == response.headers["x-warning"]


LINE = Image.new("L", SIZE)
LINE.paste(255, (10, 20, 60, 23))

PAINTED_IN_PART: dict[str, tuple[Image.Image, dict[str, str], str]] = {
    "drawn in green": (Image.merge("RGB", (Image.new("L", SIZE), hole(), Image.new("L", SIZE))), {}, "no white: its"),
    "drawn in yellow": (Image.merge("RGB", (hole(), hole(), Image.new("L", SIZE))), {}, "no white: its"),
    "a line that is thinner than its blur": (
        LINE,
        {"mask_blur": "4"},
        "blurring left no white",
    ),
}


@pytest.mark.parametrize("who", PAINTED_IN_PART)
def test_a_mask_that_repaints_in_part_gets_a_hint(jobs: App, who: str) -> None:
    """What stood there shines through, and the hint says which of the mask and its blur is the reason."""
    mask, changes, fact = PAINTED_IN_PART[who]
    hint = jobs.client.post(INPAINT, **form(mask=written(mask), **changes)).headers["x-warning"]
    assert fact in hint
    assert "repaints only in part" in hint


GREY = Image.eval(hole(), lambda level: level * 2 // 3)

UNSUSPECTED: dict[str, tuple[Image.Image, dict[str, str]]] = {
    "white on black": (hole(), {}),
    "white throughout": (Image.new("L", SIZE, 255), {}),
    "white after JPEG": (Image.eval(hole(), lambda level: level * 248 // 255), {}),
    "grey that is a strength": (GREY, {"soft_mask": "strength"}),
}


@pytest.mark.parametrize("who", UNSUSPECTED)
def test_other_masks_get_none(jobs: App, who: str) -> None:
    """A mask that has white, or grey that is meant, is no cause for a hint: nor is one that is all white."""
    mask, changes = UNSUSPECTED[who]
    response = jobs.client.post(INPAINT, **form(mask=written(mask), output_format="json", **changes))
    assert response.json()["warnings"] == []
    assert "x-warning" not in response.headers
