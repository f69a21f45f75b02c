"""The web UI's dialect: what its clients send, and what cannot be done here."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.edge import App, check_shape, make_app
from tests.support.pictures import SIZE, hole, opened, photo, written
from tests.support.served import Served

IMG2IMG = "/sdapi/v1/img2img"


def encoded(image: Image.Image) -> str:
    """A picture in base64."""
    return base64.b64encode(written(image)).decode("ascii")


def call(app: App, **changes: Any) -> Any:
    """Posts a call that is good but for ``changes``; None leaves a field out."""
    sent = {"init_images": [encoded(photo())], "mask": encoded(hole()), "prompt": "a rose", **changes}
    return app.client.post(IMG2IMG, json={name: value for name, value in sent.items() if value is not None})


def asked(app: App, **changes: Any) -> Any:
    """The parameters that reach the painter."""
    response = call(app, **changes)
    assert response.status_code == 200, response.text
    return app.painter.requests[-1].parameters


def test_picture(app: App) -> None:
    """The mask's white part is repainted; images, parameters and info are as the web UI's clients read them."""
    response = call(app, seed=7, mask_blur=0)
    assert response.status_code == 200, response.text
    body = response.json()
    painted, is_hole = opened(base64.b64decode(body["images"][0])), np.asarray(hole()) == 255
    assert (painted[~is_hole] == np.asarray(photo())[~is_hole]).all()
    assert (painted[is_hole] == 7).all()
    info = json.loads(body["info"])
    assert (info["seed"], info["all_seeds"], info["width"], info["height"]) == (7, [7], *SIZE)
    assert info["infotexts"][0].startswith("a rose\nSteps: 50, Sampler: Euler")
    assert body["parameters"]["steps"] == 50


def test_defaults_are_the_web_uis(app: App) -> None:
    """What is not sent is what it is there, not what it is in the guide."""
    parameters = asked(app)
    assert (parameters.num_inference_steps, parameters.guidance_scale, parameters.seed) == (50, 7.0, -1)
    assert (parameters.strength, parameters.mask_blur, parameters.masked_content) == (0.75, 4.0, "fill")
    assert (parameters.region, parameters.padding, parameters.scheduler) == ("mask", 0, "euler")


def test_what_is_asked(app: App) -> None:
    """Each field reaches the painter under our name."""
    parameters = asked(
        app,
        negative_prompt="blurry",
        steps=20,
        cfg_scale=5.5,
        denoising_strength=0.5,
        mask_blur=0,
        inpainting_fill=1,
        inpaint_full_res_padding=16,
        inpainting_mask_invert=1,
        sampler_name="DPM++ 2M Karras",
        batch_size=2,
        n_iter=2,
    )
    assert (parameters.negative_prompt, parameters.num_inference_steps, parameters.guidance_scale) == (
        "blurry",
        20,
        5.5,
    )
    assert (parameters.strength, parameters.mask_blur, parameters.masked_content) == (0.5, 0.0, "original")
    assert (parameters.padding, parameters.mask_invert, parameters.num_images) == (16, True, 4)
    assert parameters.scheduler == "dpmpp_2m_karras"


@pytest.mark.parametrize(
    ("sampler", "schedule", "expected"),
    [
        ("Euler a", "automatic", "euler_a"),
        ("euler A", None, "euler_a"),
        ("DPM++ 2M", "Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M", "Automatic", "dpmpp_2m"),
        ("DPM++ 2M", None, "dpmpp_2m"),
        ("PLMS", "", "pndm"),
        ("DPM2 a", None, None),
        ("Euler", "Karras", None),
    ],
)
def test_samplers(app: App, sampler: str, schedule: str | None, expected: str | None) -> None:
    """Samplers go by the web UI's names; what has no equal here is refused."""
    if expected is None:
        check_shape(call(app, sampler_name=sampler, scheduler=schedule), 400, "invalid_parameter")
    else:
        assert asked(app, sampler_name=sampler, scheduler=schedule).scheduler == expected


def test_whole_picture(app: App) -> None:
    """Without a mask, or without inpaint_full_res, the whole picture is the canvas, and has the size it has."""
    width, height = SIZE
    assert asked(app, mask=None, width=width, height=height).region == "full"
    assert (app.painter.requests[-1].mask == 255).all()
    assert asked(app, inpaint_full_res=False, width=width, height=height).region == "full"
    assert "70 and 53" in check_shape(call(app, mask=None), 400, "invalid_parameter")["error"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 151),
        ("cfg_scale", 0.5),
        ("seed", -2),
        ("denoising_strength", 0),
        ("mask_blur", "much"),
        ("batch_size", 5),
        ("inpainting_fill", 2),
        ("restore_faces", True),
        ("tiling", True),
        ("styles", ["x"]),
        ("script_name", "outpainting"),
        ("alwayson_scripts", {"controlnet": {"args": []}}),
        ("override_settings", {"CLIP_stop_at_last_layers": 2}),
        ("include_init_images", True),
        ("subseed_strength", 0.5),
        ("enable_magic", 1),
        ("steps", [20]),
        ("mask", "https://example.org/mask.png"),
        ("init_images", ["not base64!"]),
    ],
)
def test_refused(app: App, field: str, value: object) -> None:
    """What is out of bounds, or cannot be done here, is refused by its own name."""
    error = check_shape(call(app, **{field: value}), 400, "invalid_parameter")
    assert error["field"] == field
    assert field in error["error"]
    assert not app.painter.requests


def test_bodies(app: App) -> None:
    """Damaged bodies and pictures are refused as everywhere."""
    check_shape(app.client.post(IMG2IMG, data={"prompt": "a rose"}), 415, "unsupported_media_type")
    headers = {"Content-Type": "application/json"}
    for body in (b"", b"[]", b"{", b"\xff", b"[" * 100_000):
        check_shape(app.client.post(IMG2IMG, content=body, headers=headers), 400, "malformed_body")
    check_shape(call(app, init_images=None), 400, "missing_field")
    check_shape(call(app, init_images=[encoded(photo())] * 2), 400, "missing_field")
    check_shape(call(app, init_images=[base64.b64encode(b"no picture").decode()]), 400, "invalid_image")
    check_shape(call(app, mask=encoded(hole((8, 8)))), 400, "size_mismatch")
    assert asked(app, init_images=[f"data:image/png;base64,{encoded(photo())}"])


def test_lists(app: App) -> None:
    """What clients ask for before they paint is there."""
    assert app.client.get("/sdapi/v1/sd-models").json()[0]["model_name"] == "demo"
    assert {"name": "Euler a", "aliases": [], "options": {}} in app.client.get("/sdapi/v1/samplers").json()
    assert app.client.get("/sdapi/v1/scripts").json() == {"txt2img": [], "img2img": []}
    assert app.client.get("/sdapi/v1/options").json() == {"sd_model_checkpoint": "demo"}


def test_keys() -> None:
    """Keys are asked for here as everywhere."""
    with make_app(api_keys="secret-key") as app:
        check_shape(call(app), 401, "unauthorized")
        # As its clients send them, which know a user and a password.
        assert app.client.get("/sdapi/v1/samplers", auth=("anybody", "secret-key")).status_code == 200


@pytest.mark.contract
def test_webuiapi(server: Served) -> None:
    """The client ``webuiapi`` paints with nothing changed but the address."""
    import webuiapi

    api = webuiapi.WebUIApi(host="127.0.0.1", port=server.port, sampler="Euler a", steps=4)
    answer = api.img2img(images=[photo()], mask_image=hole(), prompt="a rose", seed=1, mask_blur=0)
    painted, is_hole = np.asarray(answer.image), np.asarray(hole()) == 255
    assert (painted[~is_hole] == np.asarray(photo())[~is_hole]).all()
    assert (painted[is_hole] != np.asarray(photo())[is_hole]).any()
    assert answer.info["seed"] == 1
    with pytest.raises(RuntimeError, match="tiling asks for"):
        api.img2img(images=[photo()], mask_image=hole(), prompt="a rose", tiling=True)
