"""A call of ``img2img``, read: the web UI's fields → this service's own terms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sd_inpaint.errors import InvalidParameterError, MissingFieldError
from sd_inpaint.http.endpoints.a1111.fields import DEFAULTS, KNOWN, TEXTS, check_inert
from sd_inpaint.http.endpoints.a1111.samplers import Sampler, read_sampler
from sd_inpaint.http.wire.base64_pictures import decode_picture
from sd_inpaint.http.wire.parameters import as_text, read_decimal, read_parameters, read_switch, read_whole
from sd_inpaint.prompt_syntax import remove_extra_networks
from sd_inpaint.schema import InpaintParameters, PromptSyntax, SchedulerName

MAX_IMAGES = 4
"""Pictures of one call, as of any request."""

MAX_SIDE = 1_000_000
"""No picture has a longer side; the true bound is on its pixels."""


@dataclass(frozen=True, slots=True)
class Img2Img:
    """A call, translated.

    Attributes:
        parameters: In this service's own terms.
        image: The picture's file.
        mask: The mask's file; None repaints everything.
        rounds_mask: Whether a mask's opacity counts as all or nothing.
        size: Width and height that the result must have, where the web UI would have made it so.
        sampler: The sampler that was asked for.
    """

    parameters: InpaintParameters
    image: bytes
    mask: bytes | None
    rounds_mask: bool
    size: tuple[int, int] | None
    sampler: Sampler


def read_call(sent: Mapping[str, Any], model: str) -> Img2Img:
    """Reads a call's fields. Decodes base64: takes as long as its pictures are large.

    Args:
        sent: The JSON object that came.
        model: The served model's name.

    Raises:
        InvalidParameterError: If one is unknown, out of bounds, or asks for something that is not done here.
        MissingFieldError: If there is no picture.
    """
    values = _with_defaults(sent)
    sampler, scheduler = read_sampler(*(as_text(name, values[name]) for name in (_sampler_field(values), "scheduler")))
    check_inert(values, sampler, model)
    if scheduler is SchedulerName.DDIM and read_decimal("eta", values.get("eta", 0)) == 1:
        scheduler = SchedulerName.DDIM_A
    own = {ours: as_text(theirs, values[theirs]) for theirs, ours in TEXTS.items() if theirs in values}
    own |= {
        "prompt_syntax": str(PromptSyntax.A1111),
        "scheduler": str(scheduler),
        "num_images": str(_read_count(values)),
        "mask_blur": _read_blur(values),
        "masked_content": _read_masked_content(values),
    }
    if _read_flag(values, "disable_extra_networks"):
        own |= {name: remove_extra_networks(own[name]) for name in ("prompt", "negative_prompt")}
    size = _read_size(values)
    is_cropped = _read_flag(values, "inpaint_full_res") and "mask" in values
    own["region"] = "mask" if is_cropped else "full"
    if not is_cropped:
        del own["padding"]
    return Img2Img(
        parameters=read_parameters(own, aliases={ours: theirs for theirs, ours in TEXTS.items()}),
        image=_read_image(values),
        mask=decode_picture("mask", values["mask"]) if "mask" in values else None,
        rounds_mask=_read_flag(values, "mask_round"),
        size=None if is_cropped else size,
        sampler=sampler,
    )


def _with_defaults(sent: Mapping[str, Any]) -> dict[str, Any]:
    """All that was sent over all that was not; null and blank texts are not."""
    for name in sent:
        if name not in KNOWN:
            raise InvalidParameterError(f"The field {name[:100]!r} is unknown.", field=name[:100])
    given = {name: value for name, value in sent.items() if value is not None}
    return DEFAULTS | {name: value for name, value in given.items() if not (isinstance(value, str) and value == "")}


def _sampler_field(values: Mapping[str, Any]) -> str:
    return "sampler_name" if values["sampler_name"] else "sampler_index"


def _read_flag(values: Mapping[str, Any], name: str) -> bool:
    return read_switch(name, values[name])


def _read_size(values: Mapping[str, Any]) -> tuple[int, int]:
    """Reads width and height."""
    width, height = (read_whole(name, values[name], 0, MAX_SIDE) for name in ("width", "height"))
    return width, height


def _read_image(values: Mapping[str, Any]) -> bytes:
    pictures = values.get("init_images", [])
    if not isinstance(pictures, list) or len(pictures) != 1:
        raise MissingFieldError("init_images must contain exactly one picture, as base64.", field="init_images")
    return decode_picture("init_images", pictures[0])


def _read_count(values: Mapping[str, Any]) -> int:
    """How many pictures: as many batches as are asked for, of as many each."""
    batch, batches = (read_whole(name, values[name], 1, MAX_IMAGES) for name in ("batch_size", "n_iter"))
    if batch * batches > MAX_IMAGES:
        raise InvalidParameterError(
            f"batch_size times n_iter must be at most {MAX_IMAGES}, not {batch * batches}.", field="batch_size"
        )
    return batch * batches


def _read_blur(values: Mapping[str, Any]) -> str:
    """One blur for both directions: ``mask_blur`` where there is one, as there, else the two, which must agree."""
    if "mask_blur" in values:
        return as_text("mask_blur", values["mask_blur"])
    across, down = (read_decimal(name, values[name]) for name in ("mask_blur_x", "mask_blur_y"))
    if across != down:
        raise InvalidParameterError(
            f"mask_blur_x and mask_blur_y must be equal, not {across:g} and {down:g}: a mask is blurred alike in both "
            "directions.",
            field="mask_blur_x",
        )
    return as_text("mask_blur_x", values["mask_blur_x"])


def _read_masked_content(values: Mapping[str, Any]) -> str:
    fill = read_whole("inpainting_fill", values["inpainting_fill"], 0, 3)
    if fill in (2, 3) and read_decimal("denoising_strength", values["denoising_strength"]) == 1:
        fill = 1  # noise is all there is then, whatever lay below
    if fill not in (0, 1):
        raise InvalidParameterError(
            "Below denoising_strength 1, inpainting_fill must be 0 (fill) or 1 (original).", field="inpainting_fill"
        )
    return "fill" if fill == 0 else "original"
