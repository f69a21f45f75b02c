"""The web UI's dialect, as its clients speak it."""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sd_inpaint.http.endpoints.a1111.fields import KNOWN
from tests.field.web_ui import CALLS, PICTURE, call, drawn, encoded
from tests.support.edge import App, check_shape, make_app
from tests.support.pictures import SIZE, hole, photo, written
from tests.support.repository import ROOT

IMG2IMG = "/sdapi/v1/img2img"


@pytest.fixture(scope="module")
def fuzzed_app() -> Iterator[App]:
    """One edge for all of a fuzz run's requests."""
    with make_app() as made:
        yield made


def post(app: App, sent: dict[str, Any]) -> Any:
    """Posts a call."""
    return app.client.post(IMG2IMG, json=sent)


@pytest.mark.parametrize("client", CALLS)
def test_clients_paint_as_they_are(app: App, client: str) -> None:
    """What a client sends is painted, where its mask is white."""
    response = post(app, call(client))
    assert response.status_code == 200, response.text
    request = app.painter.requests[-1]
    assert request.image.size == SIZE
    assert (request.mask == (255 * (hole_pixels() > 0))).all()
    assert request.parameters.prompt_syntax == "a1111"


def hole_pixels() -> Any:
    """The mask that every client sends."""
    return np.asarray(hole())


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_of_a_mask_with_transparency_what_is_opaque_is_painted(app: App, mode: str) -> None:
    """Black strokes on nothing are the mask, as a canvas saves them; faint ones count from the middle on."""
    for opacity, level in ((255, 255), (200, 255), (129, 255), (128, 0), (40, 0)):
        assert post(app, {**PICTURE, "mask": encoded(drawn(opacity, mode))}).status_code == 200
        assert app.painter.requests[-1].mask.max() == level
        assert (app.painter.requests[-1].mask[hole_pixels() == 0] == 0).all()


def test_an_unrounded_mask_keeps_its_opacity(app: App) -> None:
    """mask_round false takes the grey of the strokes."""
    assert post(app, {**PICTURE, "mask": encoded(drawn(90)), "mask_round": "false"}).status_code == 200
    assert app.painter.requests[-1].mask.max() == 90


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
def test_of_an_opaque_mask_what_is_white_is_painted(app: App, mode: str) -> None:
    """An alpha channel in which nothing is transparent changes nothing."""
    assert post(app, {**PICTURE, "mask": encoded(hole(mode=mode))}).status_code == 200
    assert (app.painter.requests[-1].mask == hole_pixels()).all()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("inpaint_full_res", [False, "False", "false", 0, "0", 0.0, "off"]),
        ("inpaint_full_res", [True, "True", 1, "1", "on", 1.0, None, ""]),
        ("inpainting_mask_invert", [0, "0", False, "false", None, 0.0]),
        ("inpainting_mask_invert", [1, "1", True, "True", 1.0]),
        ("width", [WIDTH := SIZE[0], str(WIDTH), f" {WIDTH} ", float(WIDTH), f"{WIDTH}.0"]),
        ("batch_size", [2, "2", 2.0]),
        ("seed", [-1, "-1", None, "", -1.0]),
        ("steps", [20, "20", 20.0, "20.0"]),
        ("cfg_scale", [7, "7", 7.0, "7.0", None]),
        ("denoising_strength", [1, "1", 1.0, "1.0"]),
        ("inpainting_fill", [1, "1", 1.0]),
        ("mask_blur", [0, "0", 0.0]),
        ("sampler_name", ["Euler", None, ""]),
        ("styles", [[], None, "", [""], ["None"]]),
        ("restore_faces", [False, "false", None, 0, "0", ""]),
    ],
)
def test_a_value_is_what_it_says(app: App, field: str, values: list[Any]) -> None:
    """Numbers and switches may be text, and whole numbers have a fraction of zero; null and blank are the default."""
    size = {"width": SIZE[0], "height": SIZE[1], "inpaint_full_res": False}
    asked = []
    for value in values:
        response = post(app, {**PICTURE, **size, field: value})
        assert response.status_code == 200, (value, response.text)
        asked.append(app.painter.requests[-1].parameters)
    assert all(parameters == asked[0] for parameters in asked)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "init_images"),
        ("data:image/png;base64,", "0 bytes"),
        ("   ", "0 bytes"),
        ("data:image/png,abc", "base64"),
        ("https://example.org/a.png", "not fetched"),
        ("iVBOR?", "base64"),
        ("iVBORw0KGgo=x", "base64"),
        ("iVBOR", "base64"),
        ("ÿ", "base64"),
        (7, "base64"),
        ({"data": "x"}, "base64"),
    ],
)
def test_what_is_no_picture_in_base64_is_said(app: App, text: object, words: str) -> None:
    """It is the caller's error, and its message names the field."""
    error = post(app, {**PICTURE, "init_images": [text]})
    assert error.status_code == 400
    assert words in error.json()["error"]


@pytest.mark.parametrize(
    "sent",
    [
        {"prompt": "a \ud800 rose"},
        {"\udfff": 1},
        {"sampler_name": "\ud800"},
        {"alwayson_scripts": {"x": {"args": ["\udc00"]}}},
        {"override_settings": {"\ud800": 1}},
    ],
)
def test_half_a_surrogate_pair_is_the_callers_error(app: App, sent: dict[str, Any]) -> None:
    """JSON can write what no text can hold; it is refused wherever it stands."""
    body = json.dumps({**PICTURE, **sent}).encode()
    response = app.client.post(IMG2IMG, content=body, headers={"Content-Type": "application/json"})
    assert "surrogate" in check_shape(response, 400, "invalid_parameter")["error"]


@pytest.mark.parametrize("name", ["batch_size", "n_iter", "steps", "seed", "width", "eta", "resize_mode", "clip_skip"])
@pytest.mark.parametrize("digits", [30, 4_000, 8_001])
def test_giant_numbers_are_the_callers_error(app: App, name: str, digits: int) -> None:
    """A number of thousands of digits is refused before anything multiplies or writes it."""
    body = json.dumps(PICTURE)[:-1] + f', "{name}": {"9" * digits}}}'
    response = app.client.post(IMG2IMG, content=body.encode(), headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    assert not app.painter.requests


def test_extra_networks_may_be_disabled(app: App) -> None:
    """With them disabled, as the web UI can be told, their words are left out of the prompt, and are not painted."""
    sent = {**PICTURE, "prompt": "a <lora:flowers:0.8>rose", "disable_extra_networks": "true"}
    assert post(app, sent).status_code == 200
    assert app.painter.requests[-1].parameters.prompt == "a rose"


def test_blur_of_two_directions(app: App) -> None:
    """The newer pair of fields is the blur where the older one is not sent, which goes before it."""
    assert post(app, {**PICTURE, "mask_blur_x": 7, "mask_blur_y": "7"}).status_code == 200
    assert app.painter.requests[-1].parameters.mask_blur == 7
    assert post(app, {**PICTURE, "mask_blur_x": 7, "mask_blur_y": 7, "mask_blur": 0}).status_code == 200
    assert app.painter.requests[-1].parameters.mask_blur == 0


@pytest.mark.parametrize(
    ("sampler", "field", "value", "is_inert"),
    [
        ("Euler", "eta", 0.3, True),
        ("DPM++ 2M", "eta", 0, True),
        ("Euler a", "eta", 1, True),
        ("Euler a", "eta", 0, False),
        ("DDIM", "eta", 0, True),
        ("DDIM", "eta", 1, True),
        ("DDIM", "eta", 0.5, False),
        ("DPM++ 2M SDE", "eta", 0.5, False),
        ("Euler", "s_noise", 0, True),
        ("DPM++ 2M SDE", "s_noise", 0, False),
    ],
)
def test_noise_is_asked_for_where_a_sampler_draws_it(
    app: App, sampler: str, field: str, value: float, *, is_inert: bool
) -> None:
    """What a sampler does not look at may have any value; what would change its picture is refused by name."""
    response = post(app, {**PICTURE, "sampler_name": sampler, field: value})
    if is_inert:
        assert response.status_code == 200, response.text
    else:
        assert check_shape(response, 400, "invalid_parameter")["field"] == field


def test_a_plain_results_text_is_for_the_web_ui(app: App) -> None:
    """A result of the guide's own request names the sampler, and what is text in its prompt is text there."""
    response = app.post(prompt="a cat (orange) and [a] dog", scheduler="default", prompt_weights="true")
    sent = {"image": base64.b64encode(response.content).decode("ascii")}
    text = app.client.post("/sdapi/v1/png-info", json=sent).json()["info"]
    assert text.startswith(r"a cat \(orange\) and \[a\] dog" + "\n")
    assert "Sampler: DDIM" in text


def test_the_documentation_has_every_field() -> None:
    """docs/api.md says of each field of the schema what becomes of it."""
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    table = text[text.index("| their field | default | here |") : text.index("### Samplers")]
    named = set(re.findall(r"\w+", table))
    assert {name for name in KNOWN if not name.startswith(("hr_", "firstphase_"))} <= named


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["1", "Euler", "(a:"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(sorted(KNOWN)) | st.text(max_size=8)
PROMPTS = st.text(alphabet="aAND(:)1.\\ []|<lora>BREAK#-\n", max_size=40)


@given(st.dictionaries(FIELDS, VALUES, max_size=4), PROMPTS)
@settings(deadline=None, max_examples=300)
def test_any_call_is_painted_or_refused(fuzzed_app: App, changes: dict[str, Any], prompt: str) -> None:
    """Whatever the fields hold, the answer is a picture or the caller's error in the one shape."""
    body = json.dumps({**PICTURE, "prompt": prompt, **changes})
    response = fuzzed_app.client.post(IMG2IMG, content=body.encode(), headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400), (changes, response.text)
    if response.status_code == 400:
        check_shape(response, 400, response.json()["code"])


BODY = json.dumps({**PICTURE, "prompt": "a rose", "seed": 7, "alwayson_scripts": {"x": {"args": [False]}}}).encode()


@given(st.lists(st.tuples(st.integers(0, len(BODY)), st.integers(0, 6), st.binary(max_size=6)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=200)
def test_any_damaged_body_is_painted_or_refused(fuzzed_app: App, damages: list[tuple[int, int, bytes]]) -> None:
    """A body with pieces cut out, put in or overwritten never makes the server fail."""
    body = bytearray(BODY)
    for at, length, piece in damages:
        body[at : at + length] = piece
    response = fuzzed_app.client.post(IMG2IMG, content=bytes(body), headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400, 413), response.text


@given(st.binary(max_size=200) | st.just(written(photo())), st.dictionaries(st.text(max_size=8), VALUES, max_size=3))
@settings(deadline=None, max_examples=60)
def test_any_question_is_answered_or_refused(fuzzed_app: App, file: bytes, options: dict[str, Any]) -> None:
    """The calls beside img2img refuse what they cannot read as well."""
    picture = {"image": base64.b64encode(file).decode("ascii")}
    for path, sent in (("png-info", picture), ("options", options), ("png-info", options)):
        body = json.dumps(sent).encode()
        answer = fuzzed_app.client.post(f"/sdapi/v1/{path}", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 400), answer.text
