"""Calls of the web UI's dialect as real clients send them, built by code; each says who sends it."""

import base64
from typing import Any

import numpy as np
from PIL import Image

from tests.support.pictures import SIZE, hole, photo, written


def encoded(image: Image.Image) -> str:
    """A picture in base64."""
    return base64.b64encode(written(image)).decode("ascii")


def data_url(image: Image.Image) -> str:
    """A picture as browsers' canvases write it."""
    return f"data:image/png;base64,{encoded(image)}"


WIDTH, HEIGHT = SIZE
PICTURE = {"init_images": [encoded(photo())], "mask": encoded(hole())}

SWAGGER: dict[str, Any] = {
    "prompt": "a rose",
    "negative_prompt": "",
    "styles": [],
    "seed": -1,
    "subseed": -1,
    "subseed_strength": 0,
    "seed_resize_from_h": -1,
    "seed_resize_from_w": -1,
    "sampler_name": None,
    "scheduler": None,
    "batch_size": 1,
    "n_iter": 1,
    "steps": 4,
    "cfg_scale": 7,
    "width": 512,
    "height": 512,
    "restore_faces": False,
    "tiling": False,
    "do_not_save_samples": False,
    "do_not_save_grid": False,
    "eta": 0,
    "denoising_strength": 0.75,
    "s_min_uncond": 0,
    "s_churn": 0,
    "s_tmax": 0,
    "s_tmin": 0,
    "s_noise": 0,
    "override_settings": {},
    "override_settings_restore_afterwards": True,
    "refiner_checkpoint": None,
    "refiner_switch_at": 0,
    "disable_extra_networks": False,
    "firstpass_image": None,
    "comments": {},
    "resize_mode": 0,
    "image_cfg_scale": 0,
    "mask_blur_x": 4,
    "mask_blur_y": 4,
    "mask_blur": 0,
    "mask_round": True,
    "inpainting_fill": 0,
    "inpaint_full_res": True,
    "inpaint_full_res_padding": 0,
    "inpainting_mask_invert": 0,
    "initial_noise_multiplier": None,
    "latent_mask": None,
    "force_task_id": None,
    "sampler_index": "Euler",
    "include_init_images": False,
    "script_name": None,
    "script_args": [],
    "send_images": True,
    "save_images": False,
    "alwayson_scripts": {},
    "infotext": None,
}
"""The web UI's own API page, version 1.10: every field, at its example's value or null where that is no value."""

CALLS: dict[str, dict[str, Any]] = {
    "Swagger": SWAGGER,
    # The same page, of a user who put quotes around what they changed.
    "Swagger, quoted": SWAGGER
    | {
        "restore_faces": "False",
        "tiling": "False",
        "do_not_save_grid": "False",
        "inpaint_full_res": "True",
        "steps": "4",
    },
    # webuiapi, with samplers of its enumeration and its own defaults for all the rest.
    "webuiapi": {
        "resize_mode": 0,
        "denoising_strength": 0.75,
        "mask_blur": 4,
        "inpainting_fill": 0,
        "inpaint_full_res": True,
        "inpaint_full_res_padding": 0,
        "inpainting_mask_invert": 0,
        "initial_noise_multiplier": 1,
        "prompt": "a rose",
        "styles": [],
        "seed": -1,
        "subseed": -1,
        "subseed_strength": 0,
        "seed_resize_from_h": 0,
        "seed_resize_from_w": 0,
        "batch_size": 1,
        "n_iter": 1,
        "steps": 4,
        "cfg_scale": 7.0,
        "image_cfg_scale": 1.5,
        "width": 512,
        "height": 512,
        "restore_faces": False,
        "tiling": False,
        "do_not_save_samples": False,
        "do_not_save_grid": False,
        "negative_prompt": "",
        "eta": 1.0,
        "s_churn": 0,
        "s_tmax": 0,
        "s_tmin": 0,
        "s_noise": 1,
        "override_settings": {},
        "override_settings_restore_afterwards": True,
        "sampler_name": "Euler a",
        "scheduler": "automatic",
        "sampler_index": "Euler a",
        "include_init_images": False,
        "script_name": None,
        "script_args": [],
        "send_images": True,
        "save_images": False,
        "alwayson_scripts": {"ADetailer": {"args": [False]}, "animatediff": {"args": [False]}},
    },
    # A chat front end, which has one builder for all its calls: clip skip as a setting, hires fix switched off.
    "SillyTavern": {
        "prompt": "masterpiece, ((best quality)), [sketch], a rose",
        "negative_prompt": "(worst quality:1.4), [blurry], (((deformed)))",
        "sampler_name": "DPM++ 2M",
        "scheduler": "Karras",
        "steps": 4,
        "cfg_scale": 7,
        "width": 512,
        "height": 512,
        "restore_faces": False,
        "enable_hr": False,
        "hr_upscaler": "Latent",
        "hr_scale": 2,
        "hr_second_pass_steps": 0,
        "denoising_strength": 0.7,
        "seed": -1,
        "override_settings": {"CLIP_stop_at_last_layers": 1},
        "override_settings_restore_afterwards": True,
        "do_not_save_grid": False,
        "do_not_save_samples": False,
        "send_images": True,
    },
    # A chat front end that sends only what its settings have.
    "Open WebUI": {
        "prompt": "a rose",
        "negative_prompt": "",
        "batch_size": 1,
        "width": 512,
        "height": 512,
        "steps": 4,
        "cfg_scale": 7.5,
        "sampler_name": "Euler",
        "scheduler": "Normal",
    },
    # A plugin for Krita: a mask as the selection, whole numbers as floats, ControlNet's units all off.
    "Krita": {
        "init_images": [data_url(photo())],
        "mask": data_url(hole(mode="RGB")),
        "prompt": "a (red:1.2) rose",
        "seed": "-1",
        "steps": 4.0,
        "cfg_scale": 7.5,
        "width": 512.0,
        "height": 512.0,
        "batch_size": 1.0,
        "sampler_name": "DPM++ 2M Karras",
        "mask_blur": 0,
        "inpainting_fill": 1,
        "inpaint_full_res": 1,
        "inpaint_full_res_padding": 32,
        "resize_mode": 1,
        "override_settings": {"sd_model_checkpoint": "demo [0123456789]", "sd_vae": "Automatic"},
        "alwayson_scripts": {"ControlNet": {"args": [{"enabled": False, "module": "none", "model": "None"}]}},
    },
    # A plugin for Photoshop: switches as text, an empty style, the old alias of a sampler.
    "Photoshop": {
        "prompt": "a rose",
        "styles": [""],
        "sampler_index": "k_euler_a",
        "steps": 4,
        "seed": "",
        "restore_faces": "false",
        "tiling": "false",
        "inpaint_full_res": "true",
        "inpainting_fill": "1",
        "inpainting_mask_invert": "0",
        "denoising_strength": "0.9",
        "batch_size": "1",
        "width": "512",
        "height": "512",
        "firstphase_width": 0,
        "firstphase_height": 0,
        "enable_hr": "false",
        "disable_extra_networks": False,
        "alwayson_scripts": {"ControlNet": {"args": []}},
        "script_name": "None",
    },
    # A workflow tool's HTTP node: base64 in lines of 76, as a mail has it.
    "n8n": {
        "init_images": [base64.encodebytes(written(photo())).decode("ascii")],
        "mask": base64.encodebytes(written(hole())).decode("ascii").replace("\n", "\r\n"),
        "prompt": "a rose",
        "steps": 4,
        "inpaint_full_res": "True",
    },
    # A web page that wrote its base64 for a URL, and without padding.
    "web page": {
        "init_images": [base64.urlsafe_b64encode(written(photo())).decode("ascii").rstrip("=")],
        "mask": f"DATA:image/png;charset=utf-8;BASE64,{encoded(hole())}",
        "prompt": "a rose",
        "steps": 4,
    },
    # The web UI's fork Forge, whose clients send its fields for models of other kinds.
    "Forge": SWAGGER
    | {"distilled_cfg_scale": 3.5, "hr_distilled_cfg": 3.5, "sampler_index": "DPM++ 2M SDE", "eta": 1, "s_noise": 1},
    # The web UI's page, extensions that always run and are switched off.
    "extensions": {
        "prompt": "a rose",
        "steps": 4,
        "alwayson_scripts": {
            "Soft inpainting": {"args": [False, 1, 0.5, 4, 0, 0.5, 2]},
            "Refiner": {"args": [False, "", 0.8]},
            "Dynamic Prompts v2.17.1": {"args": [False, False]},
            "ADetailer": {"args": [{"ad_model": "None"}]},
            "Extra options": {"args": []},
            "Comments": {},
        },
    },
}


def call(name: str) -> dict[str, Any]:
    """Returns the whole call of a client."""
    return {**PICTURE, **CALLS[name]}


def drawn(opacity: int = 255, mode: str = "RGBA") -> Image.Image:
    """A mask as a canvas saves it: black strokes on nothing."""
    alpha = np.where(np.asarray(hole()) == 255, opacity, 0).astype(np.uint8)
    mask = Image.merge("LA", (Image.new("L", SIZE, 0), Image.fromarray(alpha)))
    return mask.convert(mode)
