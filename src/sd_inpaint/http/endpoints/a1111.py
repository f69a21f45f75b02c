"""The dialect of AUTOMATIC1111's web UI: ``POST /sdapi/v1/img2img``, and the lists that its clients ask for.

Source: the fields of that web UI's API and their defaults, and what the client ``webuiapi`` sends. It has sixty fields;
each is either obeyed or refused by name, never silently ignored. A result has its picture's size and, where the
mask is black, its bytes.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sd_inpaint.errors import (
    InvalidParameterError,
    MalformedBodyError,
    MissingFieldError,
    UnsupportedMediaTypeError,
)
from sd_inpaint.http.endpoints.painting import Painting
from sd_inpaint.http.wire.errors import answering
from sd_inpaint.http.wire.forms import reading_body
from sd_inpaint.http.wire.parameters import read_parameters
from sd_inpaint.http.wire.results import describing_headers, encode_all
from sd_inpaint.imaging import provenance
from sd_inpaint.imaging.codecs import ImageFormat
from sd_inpaint.schema import InpaintParameters, InpaintRequest, InpaintResult, SchedulerName

TEXTS = {
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

DEFAULTS: dict[str, object] = {
    "prompt": "",
    "negative_prompt": "",
    "steps": 50,
    "cfg_scale": 7.0,
    "seed": -1,
    "denoising_strength": 0.75,
    "mask_blur": 4,
    "inpainting_fill": 0,
    "inpaint_full_res": True,
    "inpaint_full_res_padding": 0,
    "inpainting_mask_invert": 0,
    "batch_size": 1,
    "n_iter": 1,
    "width": 512,
    "height": 512,
    "sampler_name": None,
    "sampler_index": "Euler",
    "scheduler": None,
}
"""The web UI's own defaults, which differ from the guide's."""

NEUTRAL: dict[str, tuple[object, ...]] = {
    "alwayson_scripts": ({},),
    "comments": ({},),
    "eta": (0, 1),  # 1 is what the ancestral sampler has anyway
    "include_init_images": (False,),
    "infotext": ("",),
    "initial_noise_multiplier": (1,),
    "latent_mask": (),
    "mask_round": (True, False),
    "override_settings": ({},),
    "refiner_checkpoint": ("",),
    "restore_faces": (False,),
    "s_churn": (0,),
    "s_min_uncond": (0,),
    "s_noise": (1,),
    "s_tmax": (0,),
    "s_tmin": (0,),
    "save_images": (False,),
    "script_args": ([],),
    "script_name": ("",),
    "seed_resize_from_h": (-1, 0),
    "seed_resize_from_w": (-1, 0),
    "send_images": (True,),
    "styles": ([],),
    "subseed_strength": (0,),
    "tiling": (False,),
}
"""Unsupported fields and the neutral values they may have. ``null`` is always accepted."""

IGNORED = frozenset(
    {
        "do_not_save_grid",  # nothing is saved
        "do_not_save_samples",
        "force_task_id",
        "image_cfg_scale",  # for models of another kind
        "override_settings_restore_afterwards",
        "resize_mode",  # a result has its picture's size
        "subseed",  # without strength, see above
    }
)

FILES = ("init_images", "mask")

KNOWN = frozenset({*DEFAULTS, *NEUTRAL, *IGNORED, *FILES})

AUTOMATIC = "automatic"
"""The schedule that leaves a sampler as its name says."""

SAMPLERS = {" ".join(part for part in theirs if part): ours for ours, theirs in provenance.SAMPLERS.items()}
"""Their names → ours."""


@dataclass(frozen=True, slots=True)
class Img2Img:
    """A call, translated.

    Attributes:
        parameters: In this service's own terms.
        image: The picture's file.
        mask: The mask's file; None repaints everything.
        size: Width and height that the result must have, where the web UI would have made it so.
        sampler: The sampler by their name.
    """

    parameters: InpaintParameters
    image: bytes
    mask: bytes | None
    size: tuple[object, object] | None
    sampler: str


class A1111:
    """Answers the web UI's calls. Lives as long as the server; serves any number of requests at once."""

    def __init__(self, painting: Painting) -> None:
        self._painting = painting

    def routes(self) -> list[Route]:
        """Returns the routes below ``/sdapi/v1``."""
        return [
            Route("/img2img", answering(self.img2img), methods=["POST"]),
            Route("/sd-models", self.list_models, methods=["GET"]),
            Route("/samplers", self.list_samplers, methods=["GET"]),
            Route("/scripts", self.list_scripts, methods=["GET"]),
            Route("/options", self.get_options, methods=["GET"]),
        ]

    async def img2img(self, request: Request) -> Response:
        """Repaints the white part of a mask."""
        # 1. Refuse what can be refused before the body is read.
        self._painting.check_open()
        deadline_seconds = self._painting.deadline_seconds(request)
        # 2. Read the request.
        body = await _read_body(request)
        call = await self._painting.work(_read, body)
        inpaint_request = await self._painting.decode(call.image, call.mask, call.parameters)
        _check_size(call, inpaint_request)
        # 3. Paint the picture.
        result = await self._painting.paint(request, inpaint_request, deadline_seconds)
        # 4. Write the response.
        return await self._painting.work(self._render, result, call)

    async def list_models(self, request: Request) -> Response:
        """Lists the one model that is served."""
        name = self._painting.model
        return JSONResponse([{"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name}])

    async def list_samplers(self, request: Request) -> Response:
        """Lists the samplers by their names there."""
        return JSONResponse([{"name": name, "aliases": [], "options": {}} for name in SAMPLERS])

    async def list_scripts(self, request: Request) -> Response:
        """Lists no scripts, which says of each extension that it is not here."""
        return JSONResponse({"txt2img": [], "img2img": []})

    async def get_options(self, request: Request) -> Response:
        """Names the model, as the one option there is."""
        return JSONResponse({"sd_model_checkpoint": self._painting.model})

    def _render(self, result: InpaintResult, call: Img2Img) -> Response:
        model, parameters = self._painting.model, call.parameters
        files = encode_all(result, ImageFormat.PNG, model, self._painting.metadata(parameters))
        seeds = [seed for seed, _ in files]
        echo = {theirs: getattr(parameters, ours) for theirs, ours in TEXTS.items()}
        info = {
            **echo,
            "seed": seeds[0],
            "all_seeds": seeds,
            "all_prompts": [parameters.prompt] * len(seeds),
            "all_negative_prompts": [parameters.negative_prompt] * len(seeds),
            "sampler_name": call.sampler,
            "batch_size": len(seeds),
            "width": result.size[0],
            "height": result.size[1],
            "sd_model_name": model,
            "infotexts": [provenance.texts(parameters, result, seeds[0], model=model).get("parameters", "")],
        }
        body = {
            "images": [base64.b64encode(file).decode("ascii") for _, file in files],
            "parameters": {**echo, "sampler_name": call.sampler, "batch_size": len(seeds)},
            "info": json.dumps(info),
        }
        return JSONResponse(body, headers=describing_headers(result, model))


def read_call(sent: Mapping[str, Any]) -> Img2Img:
    """Reads a call's fields.

    Raises:
        InvalidParameterError: If one is unknown, out of bounds, or asks for something unsupported.
        MissingFieldError: If there is no picture.
    """
    values = {**DEFAULTS, **{name: value for name, value in sent.items() if value is not None}}
    for name, value in values.items():
        if name not in KNOWN:
            raise InvalidParameterError(f"The field {name[:100]!r} is unknown.", field=name[:100])
        if name in NEUTRAL and value not in NEUTRAL[name]:
            raise InvalidParameterError(f"{name} asks for something unsupported; leave it out.", field=name)
    sampler, scheduler = _read_sampler(values)
    own = {ours: _as_text(theirs, values[theirs]) for theirs, ours in TEXTS.items()}
    own |= {"scheduler": str(scheduler), "num_images": _count(values), "masked_content": _masked_content(values)}
    is_cropped = values["inpaint_full_res"] and "mask" in values
    if is_cropped:
        own["region"] = "mask"
    else:
        own["region"] = "full"
        del own["padding"]
    parameters = read_parameters(
        own, aliases={ours: theirs for theirs, ours in TEXTS.items()} | {"num_images": "batch_size"}
    )
    return Img2Img(
        parameters=parameters,
        image=_read_image(values),
        mask=_decode_base64("mask", values["mask"]) if "mask" in values else None,
        size=None if is_cropped else (values["width"], values["height"]),
        sampler=sampler,
    )


async def _read_body(request: Request) -> bytes:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaTypeError(f"The body must be application/json, not {media_type[:100]!r}.")
    with reading_body():
        return await request.body()


def _read(body: bytes) -> Img2Img:
    return read_call(_parse(body))


def _check_size(call: Img2Img, inpaint_request: InpaintRequest) -> None:
    size = inpaint_request.image.size
    if call.size not in (None, size):
        raise InvalidParameterError(
            f"width and height must be the picture's own, {size[0]} and {size[1]}: a result has its picture's size. "
            "With a mask and inpaint_full_res=true they are ignored.",
            field="width",
        )


def _parse(body: bytes) -> dict[str, Any]:
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedBodyError("The body is not JSON.") from error
    if not isinstance(sent, dict):
        raise MalformedBodyError("The body must be a JSON object.")
    return sent


def _as_text(name: str, value: object) -> str:
    """A number, a switch or a text as the form of ``/sd-inpaint/inpaint`` would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, (int, float, str)):
        raise InvalidParameterError(f"{name} must be a number or text.", field=name)
    return str(value)


def _read_image(values: Mapping[str, Any]) -> bytes:
    pictures = values.get("init_images", [])
    if not isinstance(pictures, list) or len(pictures) != 1:
        raise MissingFieldError("init_images must contain exactly one picture, as base64.", field="init_images")
    return _decode_base64("init_images", pictures[0])


def _decode_base64(name: str, text: object) -> bytes:
    """Reads base64, also as a data URL; an address is not fetched."""
    try:
        if not isinstance(text, str):
            raise ValueError(text)
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidParameterError(f"{name} must be a picture as base64.", field=name) from error


def _read_sampler(values: Mapping[str, Any]) -> tuple[str, SchedulerName]:
    """The sampler by their name and by ours; a schedule may stand in its name or beside it."""
    schedule = str(values["scheduler"] or AUTOMATIC)
    name = str(values["sampler_name"] or values["sampler_index"])
    if schedule.lower() != AUTOMATIC:
        name = f"{name} {schedule}"
    for known, ours in SAMPLERS.items():
        if known.lower() == name.lower():
            return known, ours
    raise InvalidParameterError(
        f"The sampler_name {name[:60]!r} is unknown. Known samplers: {', '.join(SAMPLERS)}.", field="sampler_name"
    )


def _count(values: Mapping[str, Any]) -> str:
    """How many pictures: as many batches as are asked for, of as many each; the bound is the schema's."""
    counts = values["batch_size"], values["n_iter"]
    if not all(type(count) is int and count >= 1 for count in counts):
        raise InvalidParameterError("batch_size and n_iter must be whole numbers, at least 1.", field="batch_size")
    return str(counts[0] * counts[1])


def _masked_content(values: Mapping[str, Any]) -> str:
    fill = values["inpainting_fill"]
    if fill in (2, 3) and values["denoising_strength"] == 1:
        fill = 1  # noise is all there is then, whatever lay below
    if type(fill) is not int or fill not in (0, 1):
        raise InvalidParameterError(
            "Below denoising_strength 1, inpainting_fill must be 0 (fill) or 1 (original).", field="inpainting_fill"
        )
    return "fill" if fill == 0 else "original"
