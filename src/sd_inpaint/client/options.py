"""Every parameter of a request as a typed keyword, and how it goes into a form.

The schema decides about types, bounds and defaults; a test holds these names and types to it.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from pydantic import ValidationError

from sd_inpaint.errors import InvalidParameterError
from sd_inpaint.schema import (
    InpaintParameters,
    MaskedContent,
    OutputFormat,
    PromptSyntax,
    Region,
    SchedulerName,
    SoftMask,
    Speed,
)


class Options(TypedDict, total=False):
    """Everything a caller may set besides image, mask and prompt. docs/api.md says what each means."""

    negative_prompt: str
    num_inference_steps: int
    guidance_scale: float
    seed: int
    prompt_weights: bool
    prompt_syntax: PromptSyntax | Literal["weights", "a1111"]
    loras: str
    num_images: int
    speed: Speed | Literal["fast", "balanced", "best"]
    scheduler: (
        SchedulerName
        | Literal[
            "default",
            "ddim",
            "ddim_a",
            "pndm",
            "euler",
            "euler_karras",
            "euler_exponential",
            "euler_a",
            "dpmpp_2m",
            "dpmpp_2m_karras",
            "dpmpp_2m_exponential",
            "dpmpp_2m_sde_karras",
            "dpmpp_2m_sde_exponential",
            "unipc",
            "lcm",
        ]
    )
    strength: float
    masked_content: MaskedContent | Literal["original", "fill"]
    region: Region | Literal["auto", "full", "mask"]
    padding: int | None
    soft_mask: SoftMask | Literal["blend", "strength"]
    color_match: bool
    keep_exif: bool
    mask_blur: float
    mask_grow: int
    mask_invert: bool
    output_format: OutputFormat | Literal["png", "webp", "jpeg", "avif", "json"] | None
    quality: int | None


def read_options(prompt: str, options: Mapping[str, Any]) -> InpaintParameters:
    """Checks what a caller asks for, before anything is sent.

    Raises:
        InvalidParameterError: As the service would.
    """
    try:
        return InpaintParameters(prompt=prompt, **options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        shown = repr(first["input"])
        shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
        raise InvalidParameterError(f"{name}: {first['msg']}, not {shown}.", field=name) from None


def form_texts(parameters: InpaintParameters) -> dict[str, str]:
    """Returns what a form has of the parameters: those that were set, as text. The server's defaults stay its own."""
    sent = parameters.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in sent.items()}
