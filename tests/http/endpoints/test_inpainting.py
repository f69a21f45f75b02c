"""``POST /sd-inpaint/inpaint``: requests → status, code, headers and body."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sd_inpaint.errors import (
    ModelDisabledError,
    ModelFailedError,
    ModelLoadingError,
    QueueFullError,
    ShuttingDownError,
)
from sd_inpaint.schema import InpaintParameters
from tests.support.edge import INPAINT, LIGHT, App, check_shape, form, make_app
from tests.support.pictures import hole, opened, photo, written


def upload(data: bytes, name: str = "upload", content_type: str | None = None) -> tuple[str, ...] | tuple[Any, ...]:
    """Returns a file part as httpx takes it."""
    return (name, data) if content_type is None else (name, data, content_type)


def test_result_is_a_png_whose_headers_say_how_it_came_about(app: App) -> None:
    """The answer is a PNG of the input's size, whose headers say how it came about."""
    response = app.post()
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    headers = {name: response.headers[name] for name in ("x-seed", "x-model", "x-steps", "x-plan")}
    assert headers == {"x-seed": "42", "x-model": "demo", "x-steps": "2", "x-plan": "fake-float32"}
    assert response.headers["x-inference-seconds"] == "0.500"
    assert "x-region" not in response.headers
    pixels, kept = opened(response.content), np.asarray(hole()) == 0
    assert (pixels[kept] == np.asarray(photo())[kept]).all()
    assert (pixels[~kept] == 42).all()


def test_regions_are_in_a_header(app: App) -> None:
    """X-Region is there where the painter chose regions."""
    assert app.post(region="mask").headers["x-region"] == "0,0,70,53 x1.000"


@pytest.mark.parametrize("model", ["/models/größe 2", "a\nb", "名"])
def test_model_names_fit_into_headers(model: str) -> None:
    """A name that no header can hold is written with percent signs."""
    with make_app(model=model) as app:
        assert app.post().headers["x-model"].isascii()


def test_parameters_reach_the_painter(app: App) -> None:
    """What a form says is what is painted."""
    sent = {
        "prompt": '"1984" {"a": 1}\n🌹',
        "negative_prompt": "null",
        "num_inference_steps": "150",
        "guidance_scale": "1.0",
        "seed": str(2**64 - 1),
        "prompt_weights": "false",
        "prompt_syntax": "a1111",
        "scheduler": "euler_a",
        "speed": "balanced",
        "loras": "ink:0.5",
        "strength": "0.25",
        "masked_content": "fill",
        "region": "full",
        "padding": "16",
        "soft_mask": "strength",
        "num_images": "3",
        "color_match": "true",
        "keep_exif": "true",
        "mask_blur": "1.5",
        "mask_grow": "-3",
        "mask_invert": "true",
        "output_format": "webp",
        "quality": "80",
    }
    assert set(sent) == set(InpaintParameters.model_fields)
    app.painter.loras = [{"name": "ink"}]
    assert app.post(**sent).status_code == 200
    expected = {**sent, "num_inference_steps": 150, "guidance_scale": 1.0, "seed": 2**64 - 1, "strength": 0.25}
    expected |= {"prompt_weights": False, "padding": 16, "mask_blur": 1.5, "mask_grow": -3, "mask_invert": True}
    expected |= {"num_images": 3, "color_match": True, "keep_exif": True, "quality": 80}
    assert app.painter.requests[0].parameters.model_dump() == expected
    assert app.painter.deadlines == [None]


BAD_FIELDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no image": ({"image": None}, "missing_field", "image"),
    "no mask": ({"mask": None}, "missing_field", "mask"),
    "no prompt": ({"prompt": None}, "missing_field", "prompt"),
    "unknown text": ({"steps": "5"}, "invalid_parameter", "steps"),
    "unknown file": ({"picture": b"x"}, "invalid_parameter", "picture"),
    "doubled text": ({"seed": ["1", "1"]}, "invalid_parameter", "seed"),
    "text for a file": ({"mask": "http://127.0.0.1/mask.png"}, "invalid_parameter", "mask"),
    "picture for a text": ({"prompt": ("rose.png", written(photo()))}, "invalid_parameter", "prompt"),
    "long prompt": ({"prompt": "x" * 100_000}, "invalid_parameter", "prompt"),
    "prompt of a megabyte": ({"prompt": "x" * 2_000_000}, "invalid_parameter", "prompt"),
    "no UTF-8": ({"prompt": (None, b"\xff\xfe")}, "malformed_body", "prompt"),
    "steps 0": ({"num_inference_steps": "0"}, "invalid_parameter", "num_inference_steps"),
    "steps 151": ({"num_inference_steps": "151"}, "invalid_parameter", "num_inference_steps"),
    "steps 50.5": ({"num_inference_steps": "50.5"}, "invalid_parameter", "num_inference_steps"),
    "steps true": ({"num_inference_steps": "true"}, "invalid_parameter", "num_inference_steps"),
    "steps of 5000 digits": ({"num_inference_steps": "9" * 5000}, "invalid_parameter", "num_inference_steps"),
    "guidance 0.9": ({"guidance_scale": "0.9"}, "invalid_parameter", "guidance_scale"),
    "guidance 20.1": ({"guidance_scale": "20.1"}, "invalid_parameter", "guidance_scale"),
    "guidance nan": ({"guidance_scale": "nan"}, "invalid_parameter", "guidance_scale"),
    "seed -2": ({"seed": "-2"}, "invalid_parameter", "seed"),
    "seed 2**64": ({"seed": str(2**64)}, "invalid_parameter", "seed"),
}


@pytest.mark.contract
@pytest.mark.parametrize("name", BAD_FIELDS)
def test_bad_fields(app: App, name: str) -> None:
    """Each wrong field is a 400 that names it; nothing is painted, and a good request works after it."""
    changes, code, field = BAD_FIELDS[name]
    before = app.painted()
    assert check_shape(app.post(**changes), 400, code)["field"] == field
    assert app.painted() == before
    assert app.post(**LIGHT).status_code == 200


@pytest.mark.parametrize("name", ["1984", "true", "null", '"quoted"', '{"a":1}', "", " ", "🌹", "x" * 10_000])
def test_prompts_are_exact(app: App, name: str) -> None:
    """No prompt is too odd."""
    assert app.post(prompt=name).status_code == 200
    assert app.painter.requests[0].parameters.prompt == name


PNG = written(photo())


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="70" height="53"/>'


BAD_PICTURES = {
    "empty": b"",
    "text": b"not a picture",
    "svg": SVG,
    "cut png": PNG[: len(PNG) // 2],
    "cut jpeg": written(photo(), "JPEG")[:-400],
    "cut webp": written(photo(), "WEBP", lossless=True)[:-400],
    "header only": PNG[:33],
    "damaged png": PNG[:60] + bytes(40) + PNG[100:],
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 70 53\n%%EOF\n",
    "html": b"<html></html>" * 100,
    "zeros": bytes(5000),
}


@pytest.mark.contract
@pytest.mark.parametrize("field", ["image", "mask"])
@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures(app: App, name: str, field: str) -> None:
    """Uploads that are no whole picture are a 400 by the field's own code, and a good request works after it."""
    before = app.painted()
    check_shape(app.post(**{field: BAD_PICTURES[name]}), 400, f"invalid_{field}")
    assert app.painted() == before
    assert app.post(**LIGHT).status_code == 200


@pytest.mark.contract
def test_size_mismatch_names_both(app: App) -> None:
    """Image and mask of two sizes are refused, with both sizes in the sentence."""
    body = check_shape(app.post(mask=written(hole((53, 70)))), 400, "size_mismatch")
    assert "70×53" in body["error"] or "70x53" in body["error"]
    assert "53×70" in body["error"] or "53x70" in body["error"]


def test_pictures_up_to_the_limit() -> None:
    """Pixels are counted before they are decoded; the limit itself is allowed."""
    with make_app(max_pixels=70 * 53) as app:
        assert app.post().status_code == 200
        for field in ("image", "mask"):
            larger = written(photo((71, 53)))
            check_shape(app.post(**{field: larger}), 413, "image_too_large")


GOOD_PICTURES = [
    *[("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
    *[("JPEG", mode) for mode in ("L", "RGB", "CMYK")],
    *[("WEBP", mode) for mode in ("RGB", "RGBA")],
    *[("TIFF", mode) for mode in ("1", "L", "RGB", "RGBA", "CMYK", "I;16")],
    ("AVIF", "RGB"),
    ("GIF", "P"),
    ("BMP", "RGB"),
]


@pytest.mark.contract
@pytest.mark.parametrize(("image_format", "mode"), GOOD_PICTURES)
def test_formats_and_modes(app: App, image_format: str, mode: str) -> None:
    """Every format and mode is read as image and as mask, whatever the part claims to be."""
    image = Image.new("I;16", photo().size, 30_000) if mode == "I;16" else photo(mode=mode)
    data = written(image, image_format)
    response = app.post(image=upload(data, "x.jpg", "image/jpg"), mask=upload(data, "x", "text/plain"), **LIGHT)
    assert response.status_code == 200, response.text
    assert opened(response.content).shape[:2] == (53, 70)


@pytest.mark.parametrize(
    "content_type", ["image/jpeg", "image/jpg", "application/octet-stream", "IMAGE/PNG; x=y", "", "é"]
)
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a", "x" * 300 + ".png", "../../a.png", "a\x00b.png", "ü.png"])
def test_mislabelled_uploads(app: App, name: str, content_type: str) -> None:
    """The bytes decide what a picture is; file name and Content-Type of the part do not."""
    assert app.post(image=upload(PNG, name, content_type)).status_code == 200


@pytest.mark.contract
@pytest.mark.parametrize(
    ("content_type", "status", "code"),
    [
        ("application/json", 415, "unsupported_media_type"),
        ("application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        ("application/vnd.bentoml+pickle", 415, "unsupported_media_type"),
        ("Application/Vnd.BentoML+Pickle", 415, "unsupported_media_type"),
        ("text/plain", 415, "unsupported_media_type"),
        ("", 415, "unsupported_media_type"),
        ("multipart/form-data", 400, "malformed_body"),
        ("multipart/form-data; boundary=other", 400, "malformed_body"),
    ],
)
def test_bodies_of_other_types(app: App, content_type: str, status: int, code: str) -> None:
    """Only forms are read; whatever else a body claims to be, it is not looked into."""
    request = app.client.build_request("POST", INPAINT, **form())
    response = app.client.post(INPAINT, content=request.read(), headers={"Content-Type": content_type})
    check_shape(response, status, code)


@pytest.mark.contract
def test_query_parameters_are_not_dropped(app: App) -> None:
    """An option in the URL is refused, since it would otherwise be ignored."""
    check_shape(app.client.post(INPAINT + "?seed=7", **form()), 400, "invalid_parameter")


@pytest.mark.contract
@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg", "avif"])
def test_accept_decides_the_format(app: App, image_format: str) -> None:
    """The answer is what the caller asked for, by its bytes and by its Content-Type."""
    response = app.post({"Accept": f"image/{image_format}"})
    assert response.headers["content-type"] == f"image/{image_format}"
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.format is not None
        assert (image.format.lower(), image.size) == (image_format, (70, 53))


def test_json_result(app: App) -> None:
    """JSON has the same PNG in base64, and everything the headers say."""
    response = app.post({"Accept": "application/json", "X-Request-ID": "mine"}, region="mask")
    body = response.json()
    assert base64.b64decode(body.pop("image")) == app.post(region="mask").content
    assert body == {
        "media_type": "image/png",
        "seed": 42,
        "steps": 2,
        "model": "demo",
        "inference_seconds": 0.5,
        "regions": ["0,0,70,53 x1.000"],
        "plan": "fake-float32",
        "warnings": [],
        "request_id": "mine",
    }


@pytest.mark.contract
def test_accept_that_cannot_be_met(app: App) -> None:
    """A format that is not written is a 406 before anything is painted."""
    before = app.painted()
    check_shape(app.post({"Accept": "image/gif"}), 406, "not_acceptable")
    assert app.painted() == before


@pytest.mark.contract
def test_result_too_large_for_its_format(app: App) -> None:
    """A picture that WebP cannot hold is refused before it is painted."""
    wide = {"image": written(photo((16_384, 1))), "mask": written(hole((16_384, 1)))}
    before = app.painted()
    check_shape(app.post({"Accept": "image/webp"}, **wide), 413, "image_too_large")
    assert app.painted() == before
    assert app.post(**wide).status_code == 200


def test_deadline_header() -> None:
    """A caller may ask for less time than the operator allows, not for more."""
    with make_app(deadline_seconds=100.0) as app:
        assert app.post({"X-Deadline-Seconds": "60.5"}).status_code == 200
        assert app.painter.deadlines == [pytest.approx(60.5, abs=5.0)]
        body = check_shape(app.post({"X-Deadline-Seconds": "100.1"}), 400, "invalid_parameter")
        assert (body["field"], body["maximum"]) == ("X-Deadline-Seconds", 100.0)


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (QueueFullError("The queue is full.", retry_after_seconds=9), 429),
        (ModelLoadingError("The model is still being loaded."), 503),
        (ModelDisabledError("This server paints nothing."), 503),
        (ModelFailedError("The model could not be loaded."), 503),
        (ShuttingDownError("The server is shutting down."), 503),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_server_that_takes_nothing_says_so_before_it_reads(app: App, refusal: Any, status: int) -> None:
    """A full queue, or a model that is not there, refuses even a body that is wrong."""
    app.painter.refusal = refusal
    response = app.client.post(INPAINT, content=b"x", headers={"Content-Type": "text/plain"})
    check_shape(response, status, refusal.code)
    assert response.headers.get("retry-after") == {"queue_full": "9", "model_loading": "5", "shutting_down": "10"}.get(
        refusal.code
    )
