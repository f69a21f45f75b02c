"""The parts of a request and of a result; each bound and each default is defined here, once."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from sd_inpaint.picture import Picture

SEED_MAX = 2**64 - 1
"""Largest seed that ``torch.Generator.manual_seed`` accepts."""

SEED_RANDOM = -1
"""Asks for a seed drawn by the server, returned in the result."""


class Region(StrEnum):
    """Which part of the picture the model works on."""

    AUTO = "auto"
    """The whole of a picture near the model's native size; of a larger one, the mask and its surroundings."""

    FULL = "full"
    """The whole picture at its own scale."""

    MASK = "mask"
    """Always the mask and its surroundings."""


class SoftMask(StrEnum):
    """What the mask's grey levels mean."""

    BLEND = "blend"
    """How much of the painted pixel covers the input's."""

    STRENGTH = "strength"
    """How far the model may change a pixel: half-grey is denoised only from half-way on."""


class MaskedContent(StrEnum):
    """The content of the hole before denoising; at strength 1.0, noise replaces it either way."""

    ORIGINAL = "original"
    """The picture's own content."""

    FILL = "fill"
    """The surrounding colours, continued smoothly."""


class SchedulerName(StrEnum):
    """The samplers a caller may name."""

    DEFAULT = "default"
    """The scheduler that the model ships with."""

    DDIM = "ddim"
    DDIM_A = "ddim_a"
    """DDIM with eta 1, which draws noise in each step."""

    PNDM = "pndm"
    EULER = "euler"
    EULER_KARRAS = "euler_karras"
    EULER_EXPONENTIAL = "euler_exponential"
    EULER_A = "euler_a"
    DPMPP_2M = "dpmpp_2m"
    DPMPP_2M_KARRAS = "dpmpp_2m_karras"
    DPMPP_2M_EXPONENTIAL = "dpmpp_2m_exponential"
    DPMPP_2M_SDE_KARRAS = "dpmpp_2m_sde_karras"
    DPMPP_2M_SDE_EXPONENTIAL = "dpmpp_2m_sde_exponential"
    UNIPC = "unipc"
    LCM = "lcm"


class Speed(StrEnum):
    """How much time a picture may take; :mod:`sd_inpaint.presets` has what each stands for on a server."""

    FAST = "fast"
    """As few steps as give a picture."""

    BALANCED = "balanced"
    """Steps enough for most pictures."""

    BEST = "best"
    """The guide's own defaults."""


class PromptSyntax(StrEnum):
    """The languages that prompts may be written in."""

    WEIGHTS = "weights"
    """Plain text, in which ``(word:1.3)`` is a weight."""

    A1111 = "a1111"
    """That of AUTOMATIC1111's web UI: ``(word)``, ``[word]``, ``(word:1.3)``, ``BREAK``."""


class OutputFormat(StrEnum):
    """The formats that a caller may name for a result."""

    PNG = "png"
    """The only one that keeps every pixel."""

    WEBP = "webp"
    JPEG = "jpeg"
    AVIF = "avif"
    JSON = "json"
    """The pictures as PNG in base64."""

    @classmethod
    def _missing_(cls, value: object) -> "OutputFormat | None":
        """Reads other spellings of the same formats, as file names have them."""
        name = str(value).lower()
        return next((each for each in cls if each == ("jpeg" if name == "jpg" else name)), None)

    @property
    def is_lossy(self) -> bool:
        """Whether files of this format are smaller at a lower ``quality``."""
        return self in (OutputFormat.WEBP, OutputFormat.JPEG, OutputFormat.AVIF)


class InpaintParameters(BaseModel):
    """Everything a caller may set besides the image and the mask.

    The first five fields are the API guide's; the defaults of the others leave the guide's meaning as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(max_length=10_000, description="Text description for the inpainted area.")
    negative_prompt: str = Field(default="", max_length=10_000, description="What to avoid in generation.")
    num_inference_steps: int = Field(default=50, ge=1, le=150, description="Number of denoising steps.")
    guidance_scale: float = Field(
        default=7.5, ge=1.0, le=20.0, allow_inf_nan=False, description="How closely to follow the prompt."
    )
    seed: int = Field(
        default=42, ge=SEED_RANDOM, le=SEED_MAX, description="Random seed; -1 draws one, returned in X-Seed."
    )
    prompt_weights: bool = Field(
        default=True,
        description="Read (word:1.3) as a weight and accept prompts of any length; false takes the text literally, "
        "cut off at the text encoder's 77 tokens.",
    )
    prompt_syntax: PromptSyntax = Field(
        default=PromptSyntax.WEIGHTS,
        description="What is read while prompt_weights is true: weights is (word:1.3) only, a1111 the web UI's "
        "(word), [word], (word:1.3), escapes and BREAK.",
    )
    loras: str = Field(
        default="",
        max_length=1000,
        description="LoRAs and their weights, as name:0.8,other:0.5; /sd-inpaint/info lists the names.",
    )
    num_images: int = Field(default=1, ge=1, le=4, description="Number of pictures; each one uses the next seed.")
    speed: Speed = Field(
        default=Speed.BEST,
        description="Sets scheduler, steps, guidance and an LCM LoRA where you do not; /sd-inpaint/info has them.",
    )
    scheduler: SchedulerName = Field(default=SchedulerName.DEFAULT, description="Sampler; default is the model's own.")
    strength: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        allow_inf_nan=False,
        description="How much of the hole's content is replaced: 1.0 ignores it, lower values keep some of it.",
    )
    masked_content: MaskedContent = Field(
        default=MaskedContent.ORIGINAL,
        description="Where a strength below 1.0 starts: the original content, or the colours around it.",
    )
    region: Region = Field(default=Region.AUTO, description="Which part of the picture the model works on.")
    padding: int | None = Field(
        default=None, ge=0, le=4096, description="Context around the mask in pixels; the default depends on its size."
    )
    soft_mask: SoftMask = Field(default=SoftMask.BLEND, description="What the mask's grey levels mean.")
    color_match: bool = Field(default=False, description="Match the painted part's colours to its surroundings.")
    keep_exif: bool = Field(
        default=False, description="Copy the picture's EXIF data (time, camera, place) into the result."
    )
    mask_blur: float = Field(
        default=0.0, ge=0.0, le=256.0, allow_inf_nan=False, description="Gaussian blur of the mask, sigma in pixels."
    )
    mask_grow: int = Field(
        default=0, ge=-256, le=256, description="Grow the white part by this many pixels; negative values shrink it."
    )
    mask_invert: bool = Field(default=False, description="Repaint the black part instead of the white one.")
    output_format: OutputFormat | None = Field(
        default=None, description="Format of the result, whatever the Accept header says; PNG keeps every pixel."
    )
    quality: int | None = Field(
        default=None, ge=1, le=100, description="Quality of a lossy format (WebP, JPEG, AVIF): higher is larger."
    )

    @property
    def syntax(self) -> PromptSyntax | None:
        """The language of the prompts; None takes them literally."""
        return self.prompt_syntax if self.prompt_weights else None

    @field_validator("strength")
    @classmethod
    def _leaves_a_step(cls, strength: float, info: ValidationInfo) -> float:
        steps = info.data.get("num_inference_steps")
        if steps is not None and int(steps * strength) < 1:
            raise PydanticCustomError(
                "no_step_left", "strength × num_inference_steps must be at least 1; otherwise no step is left to run"
            )
        return strength


@dataclass(frozen=True, slots=True)
class InpaintRequest:
    """One whole request, decoded and checked.

    Attributes:
        image: The upright input picture.
        mask: (H, W) uint8 of the picture's size; 255 repaints, 0 keeps.
        parameters: Everything else.
        image_sha256: SHA-256 of the uploaded image, in hexadecimal; empty where no file was uploaded.
        mask_sha256: The same of the mask; empty also where it was not read as black and white.
    """

    image: Picture
    mask: np.ndarray
    parameters: InpaintParameters
    image_sha256: str = ""
    mask_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Variation:
    """One painted picture.

    Attributes:
        image: Of the input's size; equal to the input wherever the mask is 0.
        seed: The seed used, even if the caller asked for a random one.
    """

    image: Picture
    seed: int


@dataclass(frozen=True, slots=True)
class InpaintResult:
    """The painted pictures, and how they were made.

    Attributes:
        variations: The pictures, in the order of their seeds; at least one.
        steps: Denoising steps that each canvas took; 0 where nothing of the mask can be seen.
        inference_seconds: Time this request held the device.
        regions: The box and the scale of each canvas, for ``X-Region``.
        is_all_painted: Whether nothing of the caller's picture is left: all of the mask white, ``strength`` 1.
        brightest: The highest level of the mask after ``mask_invert``, ``mask_grow`` and ``mask_blur``, 0 to 255; by
            ``soft_mask=strength``, of the weight that its levels give the painted picture.
        brightest_sent: The highest level of the mask as it was sent, 0 to 255.
        image_sha256: As in :class:`InpaintRequest`.
        plan: The name of what computed them on the device, for ``X-Plan``; "" where nothing was.
        mask_sha256: As in :class:`InpaintRequest`.
        weights_sha256: Of the model that painted them (:func:`sd_inpaint.imaging.record.weights_digest`); "" as above.
        device: What an operator calls it, such as ``cpu``; "" as above.
    """

    variations: tuple[Variation, ...]
    steps: int
    inference_seconds: float
    regions: tuple[str, ...] = ()
    is_all_painted: bool = False
    brightest: int = 255
    brightest_sent: int = 255
    image_sha256: str = ""
    plan: str = ""
    mask_sha256: str = ""
    weights_sha256: str = ""
    device: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of each picture, in pixels."""
        return self.variations[0].image.size
