"""The web UI's settings: those that ``options`` lists, and the only values that calls may set them to."""

import re
from collections.abc import Mapping
from typing import Any, Final

from sd_inpaint.errors import InvalidParameterError
from sd_inpaint.http.wire.operations import JsonSchema, one_of
from sd_inpaint.http.wire.parameters import as_text

MODEL: Final = "sd_model_checkpoint"

SETTINGS: Final[Mapping[str, tuple[Any, ...]]] = {
    "CLIP_stop_at_last_layers": (1, 0),
    "add_model_name_to_info": (True,),
    "always_discard_next_to_last_sigma": (False,),
    "emphasis": ("Original",),
    "enable_emphasis": (True,),
    "enable_prompt_comments": (True,),
    "eta_ancestral": (1.0,),
    "eta_ddim": (0.0,),
    "eta_noise_seed_delta": (0,),
    "face_restoration": (False,),
    "filter_nsfw": (False,),
    "grid_save": (False,),
    "img2img_color_correction": (False,),
    "img2img_extra_noise": (0.0,),
    "img2img_fix_steps": (False,),
    "initial_noise_multiplier": (1.0,),
    "inpainting_mask_weight": (1.0,),
    "k_sched_type": ("Automatic",),
    "randn_source": ("CPU",),
    "return_grid": (False,),
    "s_churn": (0.0,),
    "s_min_uncond": (0.0,),
    "samples_format": ("png",),
    "samples_save": (False,),
    "save_init_img": (False,),
    "sd_hypernetwork": ("None", ""),
    "sd_lora": ("None", ""),
    "sd_unet": ("Automatic", "None", ""),
    "sd_vae": ("Automatic", "None", ""),
    "token_merging_ratio": (0.0,),
    "token_merging_ratio_img2img": (0.0,),
    "use_old_emphasis_implementation": (False,),
    "use_old_karras_scheduler_sigmas": (False,),
}
"""Settings that change a picture or its file → the values that are served; ``options`` shows the first."""

DISPLAY: Final[Mapping[str, Any]] = {
    "live_previews_enable": True,
    "live_preview_refresh_period": 1000,
    "show_progress_every_n_steps": 3,
    "show_progressbar": True,
    "code_former_weight": 0.5,
    "face_restoration_model": None,
    "img2img_background_color": "#ffffff",
    "sd_checkpoint_hash": "",
    "upscaler_for_img2img": None,
}
"""Settings that change no picture and no file, at any value, and the value that ``options`` shows."""


def list_settings(model: str) -> dict[str, Any]:
    """Returns all settings with their values."""
    return {MODEL: model, **{name: values[0] for name, values in SETTINGS.items()}, **DISPLAY}


def settings_schema(model: str) -> JsonSchema:
    """Returns the JSON Schema of the settings that :func:`check_settings` lets pass, at their plain values."""
    properties: JsonSchema = {MODEL: one_of([model, "", None])}
    properties |= {name: one_of(_spellings(served)) for name, served in SETTINGS.items()}
    properties |= {name: {} for name in DISPLAY}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _spellings(served: tuple[Any, ...]) -> list[Any]:
    """Values, the texts that say them, and null for the value that is set anyway."""
    spelled: list[Any] = [None, *served]
    for value in served:
        spelled += [*_switch(value), int(value)] if isinstance(value, bool) else [as_text("", value)]
    return spelled


def _switch(value: bool) -> tuple[str, ...]:
    return ("true", "1", "on", "yes") if value else ("false", "0", "off", "no")


def check_settings(sent: object, model: str, *, field: str = "override_settings") -> None:
    """Checks that settings have the values that are served.

    Args:
        sent: The object that came, by name; None stands for an unset value.
        model: The served model's name.
        field: Where it came in, for messages.

    Raises:
        InvalidParameterError: If one of them asks for something else, or is unknown; it names that one.
    """
    if not isinstance(sent, dict):
        raise InvalidParameterError(f"{field} must be an object of settings.", field=field)
    for name, value in sent.items():
        shown = f"{field}: {name[:60]}"
        if name not in SETTINGS and name not in DISPLAY and name != MODEL:
            raise InvalidParameterError(f"{shown} is no setting of this server.", field=field)
        if value is None or name in DISPLAY:
            continue
        if name == MODEL:
            if not is_served(str(value), model):
                raise InvalidParameterError(f"{shown} must be {model!r}, the one model served here.", field=field)
        elif not any(_same(value, served) for served in SETTINGS[name]):
            raise InvalidParameterError(f"{shown} must be {SETTINGS[name][0]!r} here, or left out.", field=field)


def is_served(name: str, model: str) -> bool:
    """Whether a checkpoint's name is the served model's: as it is listed, with a hash or an ending, or without path."""
    plain = re.sub(r"\s*\[\w*\]$", "", name.strip())
    plain = re.sub(r"\.(?:safetensors|ckpt)$", "", plain)
    return plain.lower() in ("", model.lower(), re.split(r"[/\\]", model.lower())[-1])


def _same(value: object, served: object) -> bool:
    """Whether two values are one, a number or a switch as text being what it says."""
    if isinstance(value, (list, dict)):
        return False
    texts = as_text("", value).strip().lower(), as_text("", served).lower()
    if isinstance(served, bool):
        return texts[0] in _switch(served)
    return texts[0] == texts[1]
