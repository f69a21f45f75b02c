"""LoRAs and speeds in every dialect: the same set reaches the painter, and the same mistakes are refused."""

import base64
import json
from typing import Any

import pytest
from PIL import Image

from sd_inpaint.schema import SchedulerName
from tests.support.edge import INPAINT, App, check_shape, form
from tests.support.pictures import hole, photo, written

LORAS = [{"name": name, "sha256": "0" * 64, "changes": ["unet"], "layers": 3} for name in ("ink", "lcm", "paper")]
A1111 = {
    "init_images": [base64.b64encode(written(photo())).decode()],
    "mask": base64.b64encode(written(hole())).decode(),
    "width": 70,
    "height": 53,
}


@pytest.fixture
def lora_app(app: App) -> App:
    """An edge whose painter has three LoRAs, one of them LCM's."""
    app.painter.loras, app.painter.lcm_lora = LORAS, "lcm"
    return app


def post(app: App, dialect: str, prompt: str = "a rose", loras: str = "", **sent: Any) -> Any:
    """Sends one request with a set of LoRAs in a dialect's own way."""
    if dialect == "a1111":
        tags = "".join(f"<lora:{part.strip()}>" for part in loras.split(",") if part)
        return app.client.post("/sdapi/v1/img2img", json={**A1111, "prompt": f"{prompt} {tags}".strip(), **sent})
    files = {"image": ("a.png", written(photo()))}
    if dialect == "native":
        files["mask"] = ("m.png", written(hole()))
    else:
        translucent = photo(mode="RGBA")
        translucent.putalpha(Image.eval(hole(), lambda level: 255 - level))
        files["image"] = ("a.png", written(translucent))
    data = {"prompt": prompt, "loras": loras, **sent}
    return app.client.post("/v1/images/edits" if dialect == "openai" else INPAINT, files=files, data=data)


@pytest.mark.parametrize("dialect", ["native", "openai", "a1111"])
def test_every_dialect_names_loras(lora_app: App, dialect: str) -> None:
    """A set reaches the painter as one text, and the prompt without it."""
    response = post(lora_app, dialect, loras="paper:0.5,ink:0.8")
    assert response.status_code == 200, response.text
    parameters = lora_app.painter.requests[-1].parameters
    assert (parameters.prompt, parameters.loras) == ("a rose", "ink:0.8,paper:0.5")


@pytest.mark.parametrize("dialect", ["native", "openai", "a1111"])
@pytest.mark.parametrize("loras", ["oil:1", "ink:3", "ink:x", "ink:1,ink:1"])
def test_every_dialect_refuses_with_the_names(lora_app: App, dialect: str, loras: str) -> None:
    """An unknown name or a weight out of bounds is a 422 that lists the names, in the dialect's own shape."""
    response = post(lora_app, dialect, loras=loras)
    assert response.status_code == 422
    if dialect == "openai":
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("invalid_loras", "loras")
        message = error["message"]
    else:
        body = check_shape(response, 422, "invalid_loras")
        assert (body["field"], body["loras"]) == ("loras", ["ink", "lcm", "paper"])
        message = body["error"]
    assert message.endswith("This server has: ink, lcm, paper.")
    assert not lora_app.painter.requests


def test_job_names_loras(lora_app: App) -> None:
    """POST /sd-inpaint/jobs takes and refuses the same."""
    check_shape(lora_app.client.post("/sd-inpaint/jobs", **form(loras="oil")), 422, "invalid_loras")
    assert lora_app.client.post("/sd-inpaint/jobs", **form(loras="ink")).status_code == 202


def test_prompt_of_the_web_ui_names_loras_in_the_native_api_too(lora_app: App) -> None:
    """With prompt_syntax=a1111 the prompt's own tags count, beside those in loras; taken literally they are text."""
    tagged = form(prompt="a <lora:ink:0.5> rose", prompt_syntax="a1111", loras="paper")
    assert lora_app.client.post(INPAINT, **tagged).status_code == 200
    assert lora_app.painter.requests[-1].parameters.loras == "ink:0.5,paper:1"
    literal = form(prompt="a <lora:ink:0.5> rose", prompt_syntax="a1111", prompt_weights="false")
    assert lora_app.client.post(INPAINT, **literal).status_code == 200
    parameters = lora_app.painter.requests[-1].parameters
    assert (parameters.prompt, parameters.loras) == ("a <lora:ink:0.5> rose", "")


@pytest.mark.parametrize(
    ("prompt", "loras"),
    [("<lora:ink>", "ink:1"), ("<lora:ink:0.5:0.5>", "ink:0.5"), ("# <lora:oil:1>\na rose <lora:ink:1>", "ink:1")],
)
def test_web_ui_spellings_of_a_lora(lora_app: App, prompt: str, loras: str) -> None:
    """A tag may leave its weight out, or give both networks the same; one in a comment is none."""
    assert post(lora_app, "a1111", prompt).status_code == 200
    assert lora_app.painter.requests[-1].parameters.loras == loras


@pytest.mark.parametrize(
    "sent",
    [
        {"prompt": "<lora:ink:0.5:0.7>"},
        {"prompt": "<lora:ink:te=0.5>"},
        {"prompt": "<hypernet:ink:1>"},
        {"negative_prompt": "<lora:ink:1>"},
    ],
)
def test_what_is_not_done_is_refused(lora_app: App, sent: dict[str, str]) -> None:
    """Two weights, other kinds of networks, and LoRAs in the negative prompt are named and refused."""
    response = lora_app.client.post("/sdapi/v1/img2img", json={**A1111, **sent})
    assert check_shape(response, 400, "invalid_parameter")["field"] in sent


def test_web_ui_lists_loras(lora_app: App) -> None:
    """GET /sdapi/v1/loras has each LoRA by name, and nothing of where it lies."""
    listed = lora_app.client.get("/sdapi/v1/loras").json()
    assert [(lora["name"], lora["alias"], lora["path"]) for lora in listed] == [
        (name, name, f"{name}.safetensors") for name in ("ink", "lcm", "paper")
    ]


def test_result_says_what_was_used(lora_app: App) -> None:
    """A picture's text has the LoRAs as tags, the scheduler and the steps, whatever speed chose them."""
    response = lora_app.client.post("/sdapi/v1/img2img", json={**A1111, "prompt": "a rose <lora:ink:0.5>"})
    assert "a rose <lora:ink:0.5>\n" in json.loads(response.json()["info"])["infotexts"][0]
    fast = form(speed="fast", num_inference_steps=None, output_format="png")
    picture = lora_app.client.post(INPAINT, **fast)
    text = lora_app.client.post(
        "/sdapi/v1/png-info", json={"image": base64.b64encode(picture.content).decode()}
    ).json()["info"]
    assert text.startswith("a rose <lora:lcm:1>\n")
    assert "Steps: 6, Sampler: LCM, " in text
    assert "CFG scale: 1, " in text


def test_speed_takes_what_the_operator_has_given(lora_app: App) -> None:
    """speed=fast is LCM with its LoRA here; what a caller sends stays."""
    assert post(lora_app, "native", speed="fast", loras="ink:0.5", guidance_scale="1.5").status_code == 200
    parameters = lora_app.painter.requests[-1].parameters
    assert (parameters.scheduler, parameters.num_inference_steps) == (SchedulerName.LCM, 6)
    assert (parameters.guidance_scale, parameters.loras) == (1.5, "ink:0.5,lcm:1")
    body = check_shape(post(lora_app, "native", speed="warp"), 400, "invalid_parameter")
    assert body["choices"] == ["fast", "balanced", "best"]


def test_model_that_is_an_lcm_says_its_own_defaults(app: App) -> None:
    """Info has the defaults of the model that is served, and requests get them."""
    app.painter.own_scheduler = SchedulerName.LCM
    parameters = app.client.get("/sd-inpaint/info").json()["parameters"]
    assert (parameters["num_inference_steps"]["default"], parameters["guidance_scale"]["default"]) == (8, 1.0)
    assert post(app, "native").status_code == 200
    assert app.painter.requests[-1].parameters.num_inference_steps == 8
