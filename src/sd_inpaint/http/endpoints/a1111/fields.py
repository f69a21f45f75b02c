"""The fields of ``img2img``: which there are, what they are when they are left out, and which may only ask for nothing.

The web UI's own schema has over sixty. Each is obeyed, accepted at a value that changes nothing, or refused by name.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from sd_inpaint.errors import InvalidParameterError
from sd_inpaint.http.endpoints.a1111.samplers import Sampler
from sd_inpaint.http.endpoints.a1111.settings import check_settings, is_served
from sd_inpaint.http.wire.parameters import read_decimal, read_switch

TEXTS: Final = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "seed": "seed",
    "denoising_strength": "strength",
    "mask_blur": "mask_blur",
    "inpainting_mask_invert": "mask_invert",
    "inpaint_full_res_padding": "padding",
}
"""Their names → ours, for fields that translate one to one."""

DEFAULTS: Final[dict[str, object]] = {
    "prompt": "",
    "negative_prompt": "",
    "steps": 50,
    "cfg_scale": 7.0,
    "seed": -1,
    "denoising_strength": 0.75,
    "mask_blur_x": 4,
    "mask_blur_y": 4,
    "mask_round": True,
    "inpainting_fill": 0,
    "inpaint_full_res": True,
    "inpaint_full_res_padding": 0,
    "inpainting_mask_invert": 0,
    "batch_size": 1,
    "n_iter": 1,
    "width": 512,
    "height": 512,
    "sampler_name": "",
    "sampler_index": "Euler",
    "scheduler": "Automatic",
    "disable_extra_networks": False,
}
"""The web UI's own defaults, which differ from the guide's."""

FILES: Final = ("init_images", "mask")

IGNORED: Final = frozenset(
    {
        "comments",  # the web UI overwrites them with its own
        "do_not_save_grid",  # nothing is saved
        "do_not_save_samples",
        "force_task_id",
        "distilled_cfg_scale",  # for models of another kind, in the fork Forge
        "hr_distilled_cfg",
        "image_cfg_scale",  # for models of another kind
        "override_settings_restore_afterwards",  # nothing is overridden
        "refiner_switch_at",  # without a refiner, which is refused
        "s_tmax",  # without s_churn, which is refused
        "s_tmin",
        "script_args",  # without a script, which is refused
        "subseed",  # without a strength, which is refused
        # Of txt2img, without enable_hr, which is refused.
        "firstphase_height",
        "firstphase_width",
        "hr_additional_modules",
        "hr_cfg",
        "hr_checkpoint_name",
        "hr_negative_prompt",
        "hr_prompt",
        "hr_resize_x",
        "hr_resize_y",
        "hr_sampler_name",
        "hr_scale",
        "hr_scheduler",
        "hr_second_pass_steps",
        "hr_upscaler",
    }
)
"""Fields that change nothing here, nor there without another one."""

OFF: Final = ("enable_hr", "include_init_images", "restore_faces", "save_images", "tiling")
"""Switches that must be off."""

NUMBERS: Final[Mapping[str, tuple[float, ...]]] = {
    "initial_noise_multiplier": (1,),
    "resize_mode": (0, 1, 2, 3),  # a result has its picture's size
    "s_churn": (0,),
    "s_min_uncond": (0,),
    "subseed_strength": (0,),
}
"""Numbers, and the values that ask for nothing."""

BLANK: Final = ("", "none")
"""Texts that stand for nothing, in small letters."""


def check_inert(values: Mapping[str, Any], sampler: Sampler, model: str) -> None:
    """Checks the fields that are known and not obeyed: each must ask for nothing.

    Args:
        values: All that were sent, by name, without null.
        sampler: The one that was asked for; two fields mean something to some samplers only.
        model: The served model's name.

    Raises:
        InvalidParameterError: If one asks for something.
    """
    for name in OFF:
        if name in values and read_switch(name, values[name]):
            raise refusal(name)
    if "send_images" in values and not read_switch("send_images", values["send_images"]):
        raise refusal("send_images")
    for name, inert in NUMBERS.items():
        if name in values and read_decimal(name, values[name]) not in inert:
            raise refusal(name)
    for name, check in CHECKED.items():
        if name in values and not check(values[name]):
            raise refusal(name)
    _check_noise(values, sampler)
    _check_seed_resize(values)
    if "override_settings" in values:
        check_settings(values["override_settings"], model)
    refiner = values.get("refiner_checkpoint", "")
    if not _is_blank(refiner) and not (isinstance(refiner, str) and is_served(refiner, model)):
        raise refusal("refiner_checkpoint")


def refusal(name: str) -> InvalidParameterError:
    """Returns the error for a field that asks for something unsupported."""
    return InvalidParameterError(f"{name} asks for something unsupported; leave it out.", field=name)


def _check_noise(values: Mapping[str, Any], sampler: Sampler) -> None:
    if "eta" in values:
        eta = read_decimal("eta", values["eta"])
        if sampler.etas and eta not in sampler.etas:
            allowed = " or ".join(f"{known:g}" for known in sampler.etas)
            raise InvalidParameterError(f"eta must be {allowed} with {sampler.name}, or left out.", field="eta")
    if "s_noise" in values:
        noise = read_decimal("s_noise", values["s_noise"])
        if sampler.draws_noise and noise != 1:
            raise InvalidParameterError(f"s_noise must be 1 with {sampler.name}, or left out.", field="s_noise")


def _check_seed_resize(values: Mapping[str, Any]) -> None:
    """Only both sides together ask for a resize, as there."""
    names = ("seed_resize_from_w", "seed_resize_from_h")
    if all(read_decimal(name, values.get(name, -1)) > 0 for name in names):
        raise refusal(names[0])


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() in BLANK


def _has_no_styles(value: object) -> bool:
    return isinstance(value, list) and all(_is_blank(style) for style in value)


def _runs_no_script(value: object) -> bool:
    """Whether scripts that always run are all off, or have no arguments."""
    if not isinstance(value, dict):
        return False
    return all(_is_off(script.get("args", []) if isinstance(script, dict) else script) for script in value.values())


def _is_off(arguments: object) -> bool:
    """Whether a script's arguments say that it is off.

    Extensions have a switch first (Soft inpainting, Refiner), or units with one each (ControlNet), or with a model each
    that may be "None" (ADetailer).
    """
    if isinstance(arguments, dict):
        return _is_disabled(arguments) if arguments else True
    if not isinstance(arguments, list):
        return arguments is None
    if not arguments or arguments[0] is False:
        return True
    return all(argument is None or _is_disabled(argument) for argument in arguments)


def _is_disabled(unit: object) -> bool:
    if not isinstance(unit, dict):
        return False
    return unit.get("enabled") is False or _is_blank(unit.get("ad_model"))


CHECKED: Final[Mapping[str, Callable[[object], bool]]] = {
    "alwayson_scripts": _runs_no_script,
    "firstpass_image": _is_blank,
    "infotext": _is_blank,
    "latent_mask": _is_blank,
    "script_name": _is_blank,
    "styles": _has_no_styles,
}
"""Fields, and whether a value asks for nothing."""

OBEYED_ELSEWHERE: Final = (
    "mask_blur",
    "eta",
    "s_noise",
    "send_images",
    "seed_resize_from_h",
    "seed_resize_from_w",
    "override_settings",
    "refiner_checkpoint",
)

KNOWN: Final = frozenset({*DEFAULTS, *FILES, *IGNORED, *OFF, *NUMBERS, *CHECKED, *OBEYED_ELSEWHERE})
"""Every field there is."""
