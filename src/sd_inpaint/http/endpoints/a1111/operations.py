"""What the calls below ``/sdapi/v1`` say of themselves, from the tables by which they are read."""

from collections.abc import Mapping
from typing import Any, Final

from typing_extensions import TypedDict

from sd_inpaint.errors import InpaintError, InvalidParameterError, MissingFieldError, RequestCancelledError
from sd_inpaint.http.endpoints.a1111 import lists
from sd_inpaint.http.endpoints.a1111.fields import CHECKED, DEFAULTS, IGNORED, KNOWN, NUMBERS, OFF, TEXTS
from sd_inpaint.http.endpoints.a1111.lists import EMPTY
from sd_inpaint.http.endpoints.a1111.settings import settings_schema
from sd_inpaint.http.endpoints.painting import NOT_OPEN, PAINTS, READS_PAIR, READS_PICTURE, deadline_parameter
from sd_inpaint.http.wire.errors import NotFoundError
from sd_inpaint.http.wire.json_body import JSON, READS_JSON
from sd_inpaint.http.wire.operations import Base64, Body, JsonSchema, Operation, Parameter, json_answer
from sd_inpaint.http.wire.parameters import parameter_schemas
from sd_inpaint.http.wire.results import RESULT_HEADERS

TAG: Final = "web-ui"

NOTHING_TO_DO = (
    "refresh-checkpoints",
    "refresh-embeddings",
    "refresh-loras",
    "refresh-vae",
    "reload-checkpoint",
)
"""Calls that have nothing to do: the one model stays as it is."""

NOT_DONE: Final = {
    "txt2img": "This server repaints parts of pictures and makes none from text alone; use img2img.",
    "extra-single-image": "This server does not scale pictures up.",
    "extra-batch-images": "This server does not scale pictures up.",
    "interrogate": "This server does not describe pictures.",
    "unload-checkpoint": "The model stays loaded for other callers.",
}
"""Calls of the web UI's that are refused, each with its reason."""


class PaintedImages(TypedDict):
    """The painted pictures, with their parameters."""

    images: list[Base64]
    parameters: dict[str, Any]
    info: str


class ProgressState(TypedDict):
    """The web UI's state."""

    skipped: bool
    interrupted: bool
    stopping_generation: bool
    job: str
    job_count: int
    job_timestamp: str
    job_no: int
    sampling_step: int
    sampling_steps: int


class ProgressOfCall(TypedDict):
    """How far your oldest call is."""

    progress: float
    eta_relative: float
    state: ProgressState
    current_image: Base64 | None
    textinfo: None


class PngInfo(TypedDict):
    """The text that a picture's file carries."""

    info: str
    items: dict[str, str]
    parameters: dict[str, str]


_LISTED: Final[Mapping[str, tuple[str, Any]]] = {
    "cmd-flags": ("The flags of a web UI that were like this server.", dict[str, Any]),
    "loras": ("The LoRAs that <lora:…> may name in a prompt.", list[lists.LoraItem]),
    "memory": ("Memory of this process and of a CUDA device, in bytes.", dict[str, Any]),
    "options": ("The settings, at the values that are served.", dict[str, Any]),
    "samplers": ("The names that sampler_name accepts.", list[lists.SamplerItem]),
    "schedulers": ("The names that scheduler accepts.", list[lists.ScheduleItem]),
    "sd-models": ("The served model.", list[lists.ModelItem]),
    "upscalers": ("The one that does nothing.", list[lists.UpscalerItem]),
}

_OBJECT: Final[JsonSchema] = {"type": "object", "additionalProperties": True}


def describe_list(name: str) -> Operation:
    """Describes one of the lists that are read."""
    if name in EMPTY:
        empty = {"type": "array", "items": {}, "maxItems": 0} if EMPTY[name] == [] else _OBJECT
        return _operation("get", name, "An empty list: nothing of the kind is served.", empty)
    summary, schema = _LISTED[name]
    return _operation("get", name, summary, schema)


def describe_img2img(longest_seconds: float, model: str) -> Operation:
    """Describes the call that repaints, by this model; a deadline may be as long as the operator's, in seconds."""
    return Operation(
        id="img2img",
        tag=TAG,
        summary="Repaint a mask, for clients of AUTOMATIC1111's web UI",
        description="Numbers and switches may be text; null and blank text stand for the default. Fields that ask for "
        "something unsupported are refused by name.",
        parameters=(deadline_parameter(longest_seconds),),
        body=Body(JSON, _img2img_schema(model)),
        answers={200: json_answer("The painted pictures.", PaintedImages, headers=RESULT_HEADERS)},
        errors=(*NOT_OPEN, *READS_JSON, MissingFieldError, *READS_PAIR, *PAINTS, RequestCancelledError),
    )


def describe_png_info(longest_seconds: float) -> Operation:
    """Describes the call that reads a picture's text; a deadline may be as long as the operator's, in seconds."""
    image = {"type": "string", "minLength": 1, "description": "The picture as base64, or as a data URL."}
    schema = {"type": "object", "properties": {"image": image}, "required": ["image"], "additionalProperties": False}
    return Operation(
        id="png_info",
        tag=TAG,
        summary="The text that a picture's file carries",
        parameters=(deadline_parameter(longest_seconds),),
        body=Body(JSON, schema),
        answers={200: json_answer("The text, whole and in parts.", PngInfo)},
        errors=(*READS_JSON, *READS_PICTURE),
    )


PROGRESS: Final = Operation(
    id="progress",
    tag=TAG,
    summary="How far your own oldest call is",
    parameters=(
        Parameter("skip_current_image", "query", {"type": "boolean", "default": False}, "Leaves out the picture."),
    ),
    answers={200: json_answer("The progress.", ProgressOfCall)},
    errors=(InvalidParameterError,),
)


def describe_options(model: str) -> Operation:
    """Describes the call that sets settings, of a server of this model."""
    return Operation(
        id="post_options",
        tag=TAG,
        summary="Accepts settings that ask for what is served",
        body=Body(JSON, settings_schema(model)),
        answers={200: json_answer("Nothing had to be done.", {"type": "null"})},
        errors=READS_JSON,
    )


def describe_call(name: str) -> Operation:
    """Describes one of the calls that read nothing."""
    if name in NOT_DONE:
        return Operation(_id("post", name), TAG, "Not done here", {}, (NotFoundError,), NOT_DONE[name])
    summary, schema = _CALLS.get(name, ("Answers a call that has nothing to do", {"type": "null"}))
    return _operation("post", name, summary, schema)


_CALLS: Final[Mapping[str, tuple[str, JsonSchema]]] = {
    "interrupt": ("Ends all of your own calls", _OBJECT),
    "skip": ("Ends your oldest call", {"type": "null"}),
}


def _operation(
    method: str, name: str, summary: str, schema: Any, errors: tuple[type[InpaintError], ...] = ()
) -> Operation:
    return Operation(_id(method, name), TAG, summary, {200: json_answer(summary, schema)}, errors)


def _id(method: str, name: str) -> str:
    return f"{method}_{name.replace('-', '_')}"


def _img2img_schema(model: str) -> JsonSchema:
    picture = {"type": "string", "minLength": 1, "description": "A picture as base64, or as a data URL."}
    init_images = {"type": "array", "items": picture, "minItems": 1, "maxItems": 1}
    special: dict[str, JsonSchema] = {
        "init_images": init_images,
        "mask": {"anyOf": [picture, _BLANK, _NULL]},
        "alwayson_scripts": {"anyOf": [_OBJECT, _BLANK, _NULL]},
        "override_settings": {"anyOf": [settings_schema(model), _BLANK, _NULL]},
        "styles": {"anyOf": [{"type": "array", "items": {"type": "string"}}, _BLANK, _NULL]},
    }
    own = parameter_schemas()
    properties = {}
    for name in sorted(KNOWN):
        if name in special:
            properties[name] = special[name]
        elif name in TEXTS:
            properties[name] = _lenient(own[TEXTS[name]], DEFAULTS.get(name))
        else:
            properties[name] = _plain(name)
    return {"type": "object", "properties": properties, "required": ["init_images"], "additionalProperties": False}


_NULL: Final[JsonSchema] = {"type": "null"}

_BLANK: Final[JsonSchema] = {"type": "string", "maxLength": 0}

_SCALAR: Final = ["string", "number", "boolean", "null"]


def _lenient(schema: JsonSchema, default: object) -> JsonSchema:
    """Returns what a field takes: a value, the same as text, or null for the default."""
    about = {} if default is None else {"default": default}
    if schema["type"] == "string":
        # A number in its place is its digits.
        return {key: value for key, value in schema.items() if key != "default"} | {"type": _SCALAR} | about
    value = {key: bound for key, bound in schema.items() if key not in ("default", "description")}
    kinds = [value, {"type": "string"}, _NULL]
    if schema["type"] == "boolean":
        kinds[1:1] = [{"const": 0}, {"const": 1}]
    return {"anyOf": kinds, "description": schema["description"], **about}


def _plain(name: str) -> JsonSchema:
    if name in IGNORED:
        return {"description": "Accepted and ignored."}
    if name in OFF:
        return {"anyOf": [{"const": False}, {"const": 0}, {"type": "string"}, _NULL]}
    if name == "send_images":
        return {"anyOf": [{"const": True}, {"const": 1}, {"type": "string"}, _NULL]}
    if name in NUMBERS:
        return {"anyOf": [*({"const": value} for value in NUMBERS[name]), {"type": "string"}, _NULL]}
    if name in CHECKED or name == "refiner_checkpoint":
        return {"type": ["string", "null"]}
    default = DEFAULTS.get(name)
    about = {} if default is None else {"default": default}
    if isinstance(default, str):
        return {"type": _SCALAR, **about}
    if isinstance(default, bool):
        return {"anyOf": [{"type": "boolean"}, {"const": 0}, {"const": 1}, {"type": "string"}, _NULL], **about}
    return {"type": ["number", "string", "null"], **about}
