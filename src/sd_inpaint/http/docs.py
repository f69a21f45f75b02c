"""Corrects what BentoML's OpenAPI description (``/docs.json``, a bento's ``apis/openapi.yaml``) says of the endpoints.

By itself it has texts of a form sent as JSON, lists BentoML's own errors, and knows nothing of the GET endpoints.
"""

from typing import Any

import attrs
from bentoml._internal.service.openapi.specification import OpenAPISpecification, PathItem, Schema

from sd_inpaint.http.errors import STATUSES
from sd_inpaint.http.health import SERVICE
from sd_inpaint.http.jobs import JOBS, KEY_HEADER
from sd_inpaint.http.openai import CHOICES, EDITS, FREE_TEXTS, MODELS
from sd_inpaint.http.results import JSON, OFFERED
from sd_inpaint.http.webui import DEFAULTS, PREFIX

INPAINT = "/sd-inpaint/inpaint"
HEALTH = "/sd-inpaint/health"
INFO = "/sd-inpaint/info"

_ERROR = {"$ref": "#/components/schemas/Error"}

_ERROR_SCHEMA = Schema(
    type="object",
    description="Every error has this shape, whatever its status; some have more facts beside it.",
    properties={
        "error": Schema(type="string", description="What is wrong, in one sentence."),
        "code": Schema(type="string", description="What is wrong, for programs.", enum=sorted(STATUSES)),
    },
    required=["error", "code"],
)

_HEALTHY = {
    "status": {"type": "string", "enum": ["healthy"]},
    "service": {"type": "string", "enum": [SERVICE]},
    "model": {"type": "string"},
}


def correct(spec: OpenAPISpecification) -> OpenAPISpecification:
    """Returns the description as it should be."""
    paths: dict[str, Any] = dict(spec.paths)
    post = dict(paths[INPAINT].post)
    media_type, form = next(iter(post["requestBody"]["content"].items()))
    post["requestBody"] = {"required": True, "content": {media_type: attrs.evolve(form, encoding=None)}}
    post["responses"] = {"200": _painted(), **_errors(set(STATUSES.values()) - {404, 405, 409, 499})}
    paths[INPAINT] = PathItem(post=post)
    paths[HEALTH] = PathItem(
        get=_read("Whether a request would be painted now.", {"type": "object", "properties": _HEALTHY}, {503}),
        post=paths[HEALTH].post,
    )
    paths[INFO] = PathItem(get=_read("The model, and each parameter's default and bounds.", {"type": "object"}, {401}))
    paths |= _jobs(post)
    paths |= _openai() | _webui()
    components: Any = spec.components
    components = {**components, "schemas": {**components["schemas"], "Error": _ERROR_SCHEMA}}
    return attrs.evolve(spec, paths=paths, components=components)


def _jobs(inpaint: dict[str, Any]) -> dict[str, PathItem]:
    """The paths of jobs; ``inpaint`` is the plain request, whose form is theirs too."""
    job = {"type": "object", "properties": {"id": {"type": "string"}, "state": {"type": "string"}}}
    identity = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    key = {"name": KEY_HEADER, "in": "header", "required": False, "schema": {"type": "string"}}
    accepted = {"description": "Accepted; Location has its address.", "content": {JSON: {"schema": job}}}
    errors = {status: answer for status, answer in inpaint["responses"].items() if status not in ("200", "406", "504")}
    post = {
        **inpaint,
        "operationId": "SDInpaint__job",
        "summary": "Accept a job",
        "description": "Accept a job that is painted in the background; it survives restarts of the server.",
        "parameters": [key],
        "responses": {"202": accepted, **errors},
    }
    stream = {"description": "Server-sent events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    read = {"parameters": [identity]}
    paths = {
        "": PathItem(post=post),
        "/{id}": PathItem(
            get={**_read("How far a job is.", job, {404}), **read},
            delete={
                "description": "Cancel a job, or delete it with its result.",
                "responses": {"204": {"description": "It is so."}, **_errors({404})},
                **read,
            },
        ),
        "/{id}/result": PathItem(
            get={
                "description": "What was painted.",
                "responses": {"200": _painted(), **_errors({404, 406, 409})},
                **read,
            }
        ),
        "/{id}/events": PathItem(
            get={"description": "Progress, as it goes.", "responses": {"200": stream, **_errors({404})}, **read}
        ),
    }
    return {JOBS + path: item for path, item in paths.items()}


def _openai() -> dict[str, PathItem]:
    """The paths of OpenAI's dialect; their errors have that dialect's shape."""
    files = {name: {"type": "string", "format": "binary"} for name in ("image", "mask")}
    texts = {name: {"type": "string", "enum": list(choices)} for name, choices in CHOICES.items()}
    texts |= {name: {"type": "string"} for name in ("prompt", "n", "size", *FREE_TEXTS)}
    form = {"type": "object", "properties": {**files, **texts}, "required": ["image", "prompt"]}
    picture = {"type": "object", "properties": {"b64_json": {"type": "string"}, "seed": {"type": "integer"}}}
    pictures = {"type": "object", "properties": {"data": {"type": "array", "items": picture}}}
    errors = {
        status: {**answer, "content": {JSON: {"schema": {"type": "object"}}}}
        for status, answer in _errors({400, 401, 413, 415, 422, 429, 500, 503, 504}).items()
    }
    edit = {
        "operationId": "SDInpaint__edit",
        "summary": "Edit an image, as OpenAI's clients ask for it",
        "description": "Repaints what is transparent in the mask, or without one in the image. Takes the parameters of "
        f"{INPAINT} too, under their own names.",
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": {
            "200": {"description": "The painted pictures.", "content": {JSON: {"schema": pictures}}},
            **errors,
        },
    }
    return {EDITS: PathItem(post=edit), MODELS: PathItem(get=_read("The served model.", {"type": "object"}, {401}))}


def _webui() -> dict[str, PathItem]:
    """The paths of the web UI's dialect."""
    fields = {name: {"default": default} for name, default in DEFAULTS.items()}
    files = {
        "init_images": {"type": "array", "items": {"type": "string", "format": "byte"}, "minItems": 1, "maxItems": 1},
        "mask": {"type": "string", "format": "byte"},
    }
    call = {"type": "object", "properties": {**files, **fields}, "required": ["init_images"]}
    pictures = {"type": "array", "items": {"type": "string", "format": "byte"}}
    answer = {"images": pictures, "parameters": {"type": "object"}, "info": {"type": "string"}}
    post = {
        "operationId": "SDInpaint__img2img",
        "summary": "Repaint a mask, as clients of AUTOMATIC1111's web UI ask for it",
        "description": "Fields that ask for what is not done here are refused by name.",
        "requestBody": {"required": True, "content": {JSON: {"schema": call}}},
        "responses": {
            "200": {
                "description": "The painted pictures, in base64.",
                "content": {JSON: {"schema": {"type": "object", "properties": answer}}},
            },
            **_errors({400, 401, 413, 415, 422, 429, 500, 503, 504}),
        },
    }
    lists = {
        "sd-models": "The served model.",
        "samplers": "Names that sampler_name takes.",
        "scripts": "No scripts.",
        "options": "The served model, as an option.",
    }
    return {f"{PREFIX}/img2img": PathItem(post=post)} | {
        f"{PREFIX}/{name}": PathItem(get=_read(description, {}, {401})) for name, description in lists.items()
    }


def _painted() -> dict[str, Any]:
    pictures = {name: {"schema": {"type": "string", "format": "binary"}} for name in OFFERED if name != JSON}
    return {
        "description": "The painted picture, as the Accept header asks; PNG by default.",
        "content": {**pictures, JSON: {"schema": {"type": "object"}}},
    }


def _errors(statuses: set[int]) -> dict[str, Any]:
    codes = {status: [code for code, its in STATUSES.items() if its == status] for status in sorted(statuses)}
    return {
        str(status): {"description": ", ".join(names), "content": {JSON: {"schema": _ERROR}}}
        for status, names in codes.items()
    }


def _read(description: str, schema: dict[str, Any], errors: set[int]) -> dict[str, Any]:
    answer = {"description": description, "content": {JSON: {"schema": schema}}}
    return {"description": description, "responses": {"200": answer, **_errors(errors)}}
