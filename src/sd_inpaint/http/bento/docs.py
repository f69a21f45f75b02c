"""Corrects what BentoML's OpenAPI description (``/docs.json``, a bento's ``apis/openapi.yaml``) says of the endpoints.

By default it describes the form's text fields as JSON, lists BentoML's own errors, and lacks the GET endpoints.
"""

from collections.abc import Callable
from typing import Any

import attrs
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sd_inpaint.http.bento.internals import OpenAPISpecification, PathItem, Schema
from sd_inpaint.http.endpoints.a1111.dialect import NOT_DONE, NOTHING_TO_DO
from sd_inpaint.http.endpoints.a1111.fields import DEFAULTS
from sd_inpaint.http.endpoints.a1111.lists import EMPTY
from sd_inpaint.http.endpoints.health import SERVICE
from sd_inpaint.http.endpoints.openai import CHOICES, COMPRESSION, FREE_TEXTS
from sd_inpaint.http.middleware.path_prefix import path_prefix
from sd_inpaint.http.wire.errors import STATUSES
from sd_inpaint.http.wire.formats import JSON, OFFERED
from sd_inpaint.http.wire.headers import IDEMPOTENCY_KEY, IMAGE_SIZE
from sd_inpaint.http.wire.parameters import describe_bounds
from sd_inpaint.http.wire.paths import A1111, EDITS, HEALTH, INFO, INPAINT, JOBS, MODELS, PREVIEW
from sd_inpaint.imaging.codecs import ImageFormat
from sd_inpaint.schema import InpaintParameters, OutputFormat

_ERROR = {"$ref": "#/components/schemas/Error"}

_ERROR_SCHEMA = Schema(
    type="object",
    description="Every error has this shape, whatever its status; some have additional fields.",
    properties={
        "error": Schema(type="string", description="The problem, in one sentence."),
        "code": Schema(type="string", description="The problem, for programs.", enum=sorted(STATUSES)),
    },
    required=["error", "code"],
)

_HEALTHY = {
    "status": {"type": "string", "enum": ["healthy"]},
    "service": {"type": "string", "enum": [SERVICE]},
    "model": {"type": "string"},
}


def docs_route(specification: Callable[[], OpenAPISpecification]) -> Route:
    """Returns the route of ``/docs.json``, whose addresses begin where the caller reached it."""

    async def get_docs(request: Request) -> Response:
        described = specification().asdict()
        if prefix := path_prefix(request):
            described["servers"] = [{"url": prefix}]
        return JSONResponse(described)

    return Route("/docs.json", get_docs, methods=["GET"])


def correct(spec: OpenAPISpecification) -> OpenAPISpecification:
    """Returns the description as it should be."""
    paths: dict[str, Any] = dict(spec.paths)
    post = dict(paths[INPAINT].post)
    media_type, form = next(iter(post["requestBody"]["content"].items()))
    post["requestBody"] = {"required": True, "content": {media_type: attrs.evolve(form, encoding=None)}}
    post["responses"] = {"200": _painted(), **_errors(set(STATUSES.values()) - {404, 405, 409, 499})}
    paths[INPAINT] = PathItem(post=post)
    paths[HEALTH] = PathItem(
        get=_read("Whether a request would be served now.", {"type": "object", "properties": _HEALTHY}, {503}),
        post=paths[HEALTH].post,
    )
    paths[INFO] = PathItem(get=_read("The model, and each parameter's default and bounds.", {"type": "object"}, {401}))
    paths |= _jobs(post) | {PREVIEW: PathItem(post=_preview())}
    paths |= _openai() | _a1111()
    components: Any = spec.components
    components = {**components, "schemas": {**components["schemas"], "Error": _ERROR_SCHEMA}}
    return attrs.evolve(spec, paths=paths, components=components)


def _jobs(inpaint: dict[str, Any]) -> dict[str, PathItem]:
    """The paths of jobs; ``inpaint`` is the plain request, whose form is theirs too."""
    job = {"type": "object", "properties": {"id": {"type": "string"}, "state": {"type": "string"}}}
    id_parameter = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    key = {"name": IDEMPOTENCY_KEY, "in": "header", "required": False, "schema": {"type": "string"}}
    accepted = {"description": "Accepted; Location has the job's URL.", "content": {JSON: {"schema": job}}}
    errors = {status: answer for status, answer in inpaint["responses"].items() if status not in ("200", "406", "504")}
    post = {
        **inpaint,
        "operationId": "SDInpaint__job",
        "summary": "Submit a job",
        "description": "Submit a job that runs in the background and survives restarts of the server.",
        "parameters": [key],
        "responses": {"202": accepted, **errors},
    }
    stream = {"description": "Server-sent events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    read = {"parameters": [id_parameter]}
    paths = {
        "": PathItem(post=post),
        "/{id}": PathItem(
            get={**_read("A job's progress.", job, {404}), **read},
            delete={
                "description": "Cancel a job, or delete it with its result.",
                "responses": {"204": {"description": "Cancelled or deleted."}, **_errors({404})},
                **read,
            },
        ),
        "/{id}/result": PathItem(
            get={
                "description": "A job's result, in the job's output_format unless the request asks for another.",
                "responses": {"200": _painted(), **_errors({400, 404, 406, 409})},
                "parameters": [id_parameter, *_format_parameters()],
            }
        ),
        "/{id}/events": PathItem(
            get={"description": "A job's progress, live.", "responses": {"200": stream, **_errors({404})}, **read}
        ),
    }
    return {JOBS + path: item for path, item in paths.items()}


def _preview() -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"image": file}, "required": ["image"]}
    size = {"description": "Width and height of the picture itself.", "schema": {"type": "string"}}
    shown = {
        "description": "The picture upright, in sRGB, and no larger than a page needs it.",
        "headers": {IMAGE_SIZE: size},
        "content": {ImageFormat.PNG.media_type: {"schema": file}},
    }
    return {
        "operationId": "SDInpaint__preview",
        "summary": "Show a picture as the service sees it",
        "description": "For pages whose browser cannot show the file, such as HEIC or TIFF.",
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": {"200": shown, **_errors({400, 401, 408, 413, 415, 429, 500})},
    }


def _openai() -> dict[str, PathItem]:
    """The paths of OpenAI's dialect; their errors have that dialect's shape."""
    files = {name: {"type": "string", "format": "binary"} for name in ("image", "mask")}
    texts = {name: {"type": "string", "enum": list(choices)} for name, choices in CHOICES.items()}
    texts |= {name: {"type": "string"} for name in ("prompt", "n", "size", COMPRESSION, *FREE_TEXTS)}
    form = {"type": "object", "properties": {**files, **texts}, "required": ["image", "prompt"]}
    picture = {"type": "object", "properties": {"b64_json": {"type": "string"}, "seed": {"type": "integer"}}}
    pictures = {"type": "object", "properties": {"data": {"type": "array", "items": picture}}}
    errors = {
        status: {**answer, "content": {JSON: {"schema": {"type": "object"}}}}
        for status, answer in _errors({400, 401, 413, 415, 422, 429, 500, 503, 504}).items()
    }
    edit = {
        "operationId": "SDInpaint__edit",
        "summary": "Edit an image, for OpenAI's clients",
        "description": "Repaints the transparent part of the mask, or without one of the image. Also takes fields of "
        f"{INPAINT}, under their own names.",
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": {
            "200": {"description": "The painted pictures.", "content": {JSON: {"schema": pictures}}},
            **errors,
        },
    }
    return {EDITS: PathItem(post=edit), MODELS: PathItem(get=_read("The served model.", {"type": "object"}, {401}))}


def _a1111() -> dict[str, PathItem]:
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
        "summary": "Repaint a mask, for clients of AUTOMATIC1111's web UI",
        "description": "Fields that ask for something unsupported are refused by name.",
        "requestBody": {"required": True, "content": {JSON: {"schema": call}}},
        "responses": {
            "200": {
                "description": "The painted pictures, as base64.",
                "content": {JSON: {"schema": {"type": "object", "properties": answer}}},
            },
            **_errors({400, 401, 413, 415, 422, 429, 500, 503, 504}),
        },
    }
    gets = {name: _read(description, {}, {401}) for name, description in _A1111_GETS.items()}
    gets |= {name: _read("An empty list: nothing of the kind is served.", {}, {401}) for name in EMPTY}
    gets["progress"] = {**_read("How far your own call is.", {"type": "object"}, {400, 401}), "parameters": [_SKIP]}
    posts = {name: _call(description, {400, 401, 413, 415}) for name, description in _A1111_POSTS.items()}
    posts |= {name: _call("Nothing has to be done.", {401}) for name in NOTHING_TO_DO}
    posts |= {name: {"description": reason, "responses": _errors({401, 404})} for name, reason in NOT_DONE.items()}
    posts["img2img"] = post
    return {f"{A1111}/{name}": PathItem(get=gets.get(name), post=posts.get(name)) for name in sorted({*gets, *posts})}


_A1111_GETS = {
    "cmd-flags": "The flags of a web UI that were like this server.",
    "memory": "Memory of this process and of a CUDA device, in bytes.",
    "options": "The settings, at the values that are served.",
    "samplers": "The names that sampler_name accepts.",
    "schedulers": "The names that scheduler accepts.",
    "sd-models": "The served model.",
    "upscalers": "The one that does nothing.",
}

_A1111_POSTS = {
    "interrupt": "Ends all of your own calls.",
    "options": "Accepts settings that ask for what is served.",
    "png-info": "The text that a picture's file carries.",
    "skip": "Ends your oldest call.",
}

_SKIP = {"name": "skip_current_image", "in": "query", "required": False, "schema": {"type": "boolean"}}


def _call(description: str, errors: set[int]) -> dict[str, Any]:
    answer = {"description": "Done.", "content": {JSON: {"schema": {}}}}
    return {"description": description, "responses": {"200": answer, **_errors(errors)}}


def _format_parameters() -> list[dict[str, Any]]:
    formats = {"type": "string", "enum": [str(each) for each in OutputFormat]}
    quality = {"type": "integer", **describe_bounds(InpaintParameters.model_fields["quality"])}
    schemas = {"output_format": formats, "quality": quality}
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in schemas.items()]


def _painted() -> dict[str, Any]:
    pictures = {name: {"schema": {"type": "string", "format": "binary"}} for name in OFFERED if name != JSON}
    return {
        "description": "The painted picture: PNG, unless output_format or the Accept header asks for another format. "
        "X-Warning has what the caller may not have meant, such as a mask without white.",
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
