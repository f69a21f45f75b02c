"""The web UI's dialect: what its clients send, and what cannot be done here."""

import base64
import json
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from sd_inpaint.http.endpoints.a1111.infotext import parse_infotext
from sd_inpaint.http.endpoints.a1111.lists import measure_memory
from sd_inpaint.imaging import codecs, provenance
from sd_inpaint.imaging.codecs import ImageFormat
from sd_inpaint.picture import Picture
from sd_inpaint.prompt_syntax import parse
from sd_inpaint.schema import InpaintParameters, InpaintResult, Region, SchedulerName, Variation
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


def test_white_part_is_repainted_and_described(app: App) -> None:
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
        ("k_euler_a", "", "euler_a"),
        ("k_euler_ancestral", "Uniform", "euler_a"),
        ("Euler", "Normal", "euler"),
        ("Euler", "karras", "euler_karras"),
        ("Euler Exponential", None, "euler_exponential"),
        ("DPM++ 2M", None, "dpmpp_2m_karras"),
        ("DPM++ 2M", "Automatic", "dpmpp_2m_karras"),
        ("DPM++ 2M", "Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M Karras", None, "dpmpp_2m_karras"),
        ("DPM++ 2M Karras", "Automatic", "dpmpp_2m_karras"),
        ("DPM++ 2M Karras", "Exponential", "dpmpp_2m_karras"),
        ("k_dpmpp_2m", None, "dpmpp_2m_karras"),
        ("k_dpmpp_2m_ka", None, "dpmpp_2m_karras"),
        ("DPM++ 2M", "exponential", "dpmpp_2m_exponential"),
        ("DPM++ 2M", "SGM Uniform", "dpmpp_2m"),
        ("DPM++ 2M", "sgm_uniform", "dpmpp_2m"),
        ("DPM++ 2M SGMUniform", None, "dpmpp_2m"),
        ("DPM++ 2M SDE", None, "dpmpp_2m_sde_exponential"),
        ("dpm++ 2m sde karras", None, "dpmpp_2m_sde_karras"),
        ("DDIM", "Karras", "ddim"),
        ("PLMS", "", "pndm"),
        ("unipc", "Beta", "unipc"),
        ("LCM", None, "lcm"),
    ],
)
def test_samplers_go_by_the_web_uis_names(app: App, sampler: str, schedule: str | None, expected: str) -> None:
    """Samplers and schedules go by the web UI's names, and mean what they mean there since version 1.9."""
    assert asked(app, sampler_name=sampler, scheduler=schedule).scheduler == expected


@pytest.mark.parametrize(
    ("sampler", "schedule", "field"),
    [
        ("DPM2 a", None, "sampler_name"),
        ("DPM++ 2M SDE Heun Karras", None, "sampler_name"),
        ("Restart", "Karras", "sampler_name"),
        ("Karras", None, "sampler_name"),
        ("Euler", "Beta", "scheduler"),
        ("Euler a", "Karras", "scheduler"),
        ("Euler a Karras", None, "scheduler"),
        ("DPM++ 2M", "Uniform", "scheduler"),
        ("DPM++ 2M", "Turbo", "scheduler"),
        ("LCM", "Karras", "scheduler"),
    ],
)
def test_samplers_without_an_equal_are_refused(app: App, sampler: str, schedule: str | None, field: str) -> None:
    """What would be another picture there is refused, with what there is."""
    error = check_shape(call(app, sampler_name=sampler, scheduler=schedule), 400, "invalid_parameter")
    assert error["field"] == field
    assert "DPM++ 2M" in error["error"] or "Automatic" in error["error"]


def test_sampler_index_names_the_sampler_where_sampler_name_does_not(app: App) -> None:
    """The older field is read if the newer one is missing, null or blank."""
    assert asked(app, sampler_index="DPM++ 2M").scheduler == "dpmpp_2m_karras"
    assert asked(app, sampler_index="DPM++ 2M", sampler_name="").scheduler == "dpmpp_2m_karras"
    assert asked(app, sampler_index="DPM++ 2M", sampler_name="Euler a").scheduler == "euler_a"


@pytest.mark.parametrize("scheduler", [name for name in SchedulerName if name is not SchedulerName.DEFAULT])
def test_a_results_own_text_asks_for_the_same_picture(app: App, scheduler: SchedulerName) -> None:
    """Read by the web UI's rule and sent back as its clients would, a result's text is the request that made it."""
    parameters = InpaintParameters(
        prompt="a (big) (red:1.3) rose",
        negative_prompt="blurry, [grey]",
        num_inference_steps=7,
        guidance_scale=6.5,
        seed=11,
        scheduler=scheduler,
        strength=0.8,
        region=Region.MASK,
        padding=12,
        mask_blur=3,
    )
    picture = Variation(Picture(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)), 11)
    result = InpaintResult((picture,), steps=5, inference_seconds=1.0, regions=("8,8,40,40@1->32x32",))
    text = provenance.texts(parameters, result, 11, model="demo")["parameters"]
    read = parse_infotext(text)
    again = asked(
        app,
        prompt=read["Prompt"],
        negative_prompt=read["Negative prompt"],
        steps=int(read["Steps"]),
        cfg_scale=float(read["CFG scale"]),
        seed=int(read["Seed"]),
        sampler_name=read["Sampler"],
        scheduler=read.get("Schedule type", "Automatic"),
        eta=float(read["Eta DDIM"]) if "Eta DDIM" in read else None,
        denoising_strength=float(read["Denoising strength"]),
        mask_blur=int(read["Mask blur"]),
        inpainting_fill=["fill", "original", "latent noise", "latent nothing"].index(
            read.get("Masked content", "original")
        ),
        inpaint_full_res=read["Inpaint area"] == "Only masked",
        inpaint_full_res_padding=int(read["Masked area padding"]),
        override_settings={"sd_model_checkpoint": read["Model"], "randn_source": read["RNG"]},
    )
    prompts = ("prompt", "negative_prompt")
    for name in prompts:
        ours = parse(getattr(parameters, name), parameters.prompt_syntax)
        theirs = parse(getattr(again, name), again.prompt_syntax)
        assert "".join(text for text, _ in theirs[0]) == "".join(text for text, _ in ours[0])
    shown = {*prompts, "prompt_syntax"}
    assert again.model_dump(exclude=shown) == parameters.model_dump(exclude=shown)


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
        ("alwayson_scripts", {"ControlNet": {"args": [{"enabled": True, "image": "x"}]}}),
        ("alwayson_scripts", {"ADetailer": {"args": [True, {"ad_model": "face_yolov8n.pt"}]}}),
        ("alwayson_scripts", []),
        ("override_settings", {"sd_model_checkpoint": "another.safetensors"}),
        ("override_settings", {"samples_format": "jpg"}),
        ("override_settings", {"sd_vae": "vae-ft-mse"}),
        ("override_settings", {"unheard_of": 1}),
        ("enable_hr", True),
        ("refiner_checkpoint", "another"),
        ("s_churn", 1),
        ("initial_noise_multiplier", 0),
        ("resize_mode", 4),
        ("send_images", False),
        ("save_images", "true"),
        ("restore_faces", "yes"),
        ("tiling", "perhaps"),
        ("seed_resize_from_w", 64),
        ("latent_mask", "AAAA"),
        ("infotext", "a rose"),
        ("mask_blur_x", 8),
        ("width", "wide"),
        ("batch_size", 10**30),
        ("n_iter", 1.5),
        ("inpaint_full_res", "maybe"),
        ("prompt", "a cat AND a dog"),
        ("prompt", "a rose <lora:flowers:1:0.5>"),
        ("negative_prompt", "[a|b]"),
        ("override_settings", {"CLIP_stop_at_last_layers": 2}),
        ("include_init_images", True),
        ("subseed_strength", 0.5),
        ("enable_magic", 1),
        ("steps", [20]),
        ("mask", "https://example.org/mask.png"),
        ("init_images", ["not base64!"]),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(app: App, field: str, value: object) -> None:
    """What is out of bounds, or cannot be done here, is refused by its own name."""
    changes = {"seed_resize_from_h": 64} if field == "seed_resize_from_w" else {}
    error = check_shape(call(app, **{field: value, **changes}), 400, "invalid_parameter")
    assert error["field"] == field
    assert field in error["error"]
    assert not app.painter.requests


def test_damaged_bodies_are_refused(app: App) -> None:
    """Damaged bodies and pictures are refused as everywhere."""
    check_shape(app.client.post(IMG2IMG, data={"prompt": "a rose"}), 415, "unsupported_media_type")
    headers = {"Content-Type": "application/json"}
    for body in (b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"seed": NaN}', b'{"seed": ' + b"9" * 8_001 + b"}"):
        check_shape(app.client.post(IMG2IMG, content=body, headers=headers), 400, "malformed_body")
    check_shape(call(app, init_images=None), 400, "missing_field")
    check_shape(call(app, init_images=[encoded(photo())] * 2), 400, "missing_field")
    check_shape(call(app, init_images=[base64.b64encode(b"no picture").decode()]), 400, "invalid_image")
    check_shape(call(app, mask=encoded(hole((8, 8)))), 400, "size_mismatch")
    assert asked(app, init_images=[f"data:image/png;base64,{encoded(photo())}"])


LISTS = {
    "sd-models": [{"title", "model_name", "hash", "sha256", "filename", "config"}],
    "samplers": [{"name", "aliases", "options"}],
    "schedulers": [{"name", "label", "aliases", "default_rho", "need_inner_model"}],
    "upscalers": [{"name", "model_name", "model_path", "model_url", "scale"}],
    "sd-vae": [],
    "loras": [],
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "prompt-styles": [],
    "latent-upscale-modes": [],
    "script-info": [],
    "extensions": [],
    "sd-modules": [],
    "scripts": {"txt2img", "img2img"},
    "embeddings": {"loaded", "skipped"},
    "memory": {"ram", "cuda"},
    "cmd-flags": {"api", "api_auth", "nowebui"},
    "progress": {"progress", "eta_relative", "state", "current_image", "textinfo"},
}
"""What clients ask, and the names that they read in the answer."""


@pytest.mark.parametrize("name", LISTS)
def test_lists_that_clients_ask_for_have_its_shape(app: App, name: str) -> None:
    """What clients ask before they paint is answered in the web UI's shape."""
    response = app.client.get(f"/sdapi/v1/{name}")
    assert response.status_code == 200, response.text
    body, shape = response.json(), LISTS[name]
    if isinstance(shape, set):
        assert body.keys() == shape
    else:
        assert isinstance(body, list)
        assert bool(body) == bool(shape)
        assert all(item.keys() == shape[0] for item in body)


def test_what_is_listed_is_served(app: App) -> None:
    """Each sampler and each schedule that is listed paints; the model that is listed may be asked for."""
    samplers = app.client.get("/sdapi/v1/samplers").json()
    assert {"name": "DPM++ 2M", "aliases": ["k_dpmpp_2m"], "options": {"scheduler": "karras"}} in samplers
    for sampler in samplers:
        for name in (sampler["name"], *sampler["aliases"]):
            assert asked(app, sampler_name=name)
    for schedule in app.client.get("/sdapi/v1/schedulers").json():
        assert any(
            call(app, sampler_name=sampler["name"], scheduler=schedule["label"]).status_code == 200
            for sampler in samplers
        ), schedule
    title = app.client.get("/sdapi/v1/sd-models").json()[0]["title"]
    assert asked(app, override_settings={"sd_model_checkpoint": title})


def test_memory_is_this_machines(app: App) -> None:
    """The figures are bytes of this machine and this process; without a CUDA device that is said."""
    memory = app.client.get("/sdapi/v1/memory").json()
    assert 10_000_000 < memory["ram"]["used"] < memory["ram"]["total"]
    assert memory["ram"]["free"] == memory["ram"]["total"] - memory["ram"]["used"]
    assert memory["cuda"] == {"error": "unavailable"}
    device = {"free": 6, "total": 8, "allocated": 1, "reserved": 2, "peak_allocated": 3, "peak_reserved": 4}
    assert measure_memory(device)["cuda"] == {
        "system": {"free": 6, "used": 2, "total": 8},
        "allocated": {"current": 1, "peak": 3},
        "reserved": {"current": 2, "peak": 4},
    }


def test_options_show_what_is_served_and_refuse_all_else(app: App) -> None:
    """Options show what is served; setting them to just that is done, setting anything else is refused by name."""
    options = app.client.get("/sdapi/v1/options").json()
    assert (options["sd_model_checkpoint"], options["samples_format"]) == ("demo", "png")
    assert app.client.post("/sdapi/v1/options", json=options).status_code == 200
    answer = app.client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "another"})
    assert "sd_model_checkpoint" in check_shape(answer, 400, "invalid_parameter")["error"]
    unknown = app.client.post("/sdapi/v1/options", json={"no_such_setting": None})
    assert "no_such_setting" in check_shape(unknown, 400, "invalid_parameter")["error"]
    assert app.client.post("/sdapi/v1/refresh-checkpoints").status_code == 200


@pytest.mark.parametrize("name", ["txt2img", "extra-single-image", "interrogate", "unload-checkpoint"])
def test_what_is_not_done_is_said(app: App, name: str) -> None:
    """Calls of the web UI's that this service cannot answer say why."""
    error = check_shape(app.client.post(f"/sdapi/v1/{name}", json={"prompt": "a rose"}), 404, "not_found")
    assert "Nothing is served" not in error["error"]


def test_png_info(app: App) -> None:
    """The text of a result, or of any picture of the web UI's, is read out of its file."""
    file = call(app, seed=7, prompt="a (red) rose", sampler_name="DPM++ 2M").json()["images"][0]
    read = app.client.post("/sdapi/v1/png-info", json={"image": f"data:image/png;base64,{file}"}).json()
    assert read["info"].startswith("a (red) rose\nSteps: 50, Sampler: DPM++ 2M, Schedule type: Karras, ")
    assert (read["parameters"]["Prompt"], read["parameters"]["Seed"]) == ("a (red) rose", "7")
    assert read["items"] == {"parameters": read["info"]}
    plain = app.client.post("/sdapi/v1/png-info", json={"image": encoded(photo())}).json()
    assert (plain["info"], plain["items"]) == ("", {})
    jpeg = codecs.encode(
        codecs.decode_image(written(photo()), max_pixels=10_000), ImageFormat.JPEG, text={"parameters": "雪"}
    )
    sent = {"image": base64.b64encode(jpeg).decode()}
    assert app.client.post("/sdapi/v1/png-info", json=sent).json()["info"] == "雪"
    check_shape(app.client.post("/sdapi/v1/png-info", json={}), 400, "invalid_parameter")


class Held:
    """A call that the painter holds until the test is done with it, in a thread of its own."""

    def __init__(self, app: App, **options: Any) -> None:
        self._app = app
        self._before = len(app.painter.requests)
        app.painter.held = True
        self._thread = threading.Thread(target=self._post, kwargs=options)

    def _post(self, **options: Any) -> None:
        sent = {"init_images": [encoded(photo())], "mask": encoded(hole()), "prompt": "a rose"}
        self.response = self._app.client.post(IMG2IMG, json=sent, **options)

    def __enter__(self) -> "Held":
        self._thread.start()
        end = time.monotonic() + 10
        while len(self._app.painter.requests) == self._before and time.monotonic() < end:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def wait(self) -> Any:
        """Lets go of all, and returns this one's response."""
        self._app.painter.held = False
        self._thread.join(10)
        return self.response


def test_progress_and_interrupt() -> None:
    """A caller sees and ends their own calls, and nobody else's."""
    with make_app(api_keys="first-key,second-key") as app:
        first, second = {"auth": ("me", "first-key")}, {"headers": {"X-API-Key": "second-key"}}
        idle = app.client.get("/sdapi/v1/progress", **first).json()
        assert (idle["progress"], idle["state"]["job_count"]) == (0, 0)
        with Held(app, **first) as held:
            # The same key in another header is the same caller.
            bearer = {"headers": {"Authorization": "Bearer first-key"}}
            mine = app.client.get("/sdapi/v1/progress?skip_current_image=true", **bearer).json()
            assert 0 < mine["progress"] <= 1
            assert mine["state"]["job_count"] == 1
            assert app.client.get("/sdapi/v1/progress", **second).json()["state"]["job_count"] == 0
            assert app.client.post("/sdapi/v1/interrupt", **second).json() == {}
            assert app.painter.cancelled == 0
            assert app.client.post("/sdapi/v1/interrupt", **first).json() == {}
            held.wait()
        check_shape(held.response, 499, "cancelled")
        assert app.painter.cancelled == 1
        assert app.client.get("/sdapi/v1/progress", **first).json()["state"]["job_count"] == 0


def test_without_keys_a_caller_is_an_address(app: App) -> None:
    """Calls from elsewhere are another caller's, whatever they say of themselves; skip ends the caller's oldest one."""
    elsewhere = TestClient(app.client.app, client=("192.0.2.1", 50000))
    with Held(app) as held:
        assert elsewhere.post("/sdapi/v1/skip", headers={"X-Forwarded-For": "testclient"}).json() is None
        assert app.painter.cancelled == 0
        assert app.client.post("/sdapi/v1/skip").status_code == 200
        held.wait()
    check_shape(held.response, 499, "cancelled")


def test_keys_are_asked_for() -> None:
    """Keys are asked for here as everywhere."""
    with make_app(api_keys="secret-key") as app:
        check_shape(call(app), 401, "unauthorized")
        # As its clients send them, which know a user and a password.
        assert app.client.get("/sdapi/v1/samplers", auth=("anybody", "secret-key")).status_code == 200


@pytest.mark.contract
def test_webuiapi_needs_nothing_but_the_address(server: Served) -> None:
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
