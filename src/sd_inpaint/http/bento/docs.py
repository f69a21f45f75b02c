"""The OpenAPI document (``/docs.json``, a bento's ``apis/openapi.yaml``), made of what each route says of itself.

BentoML's own describes the form's text fields as JSON, lists BentoML's errors, and lacks what is mounted.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sd_inpaint import __version__
from sd_inpaint.errors import BodyTooLargeError, InpaintError, MalformedBodyError, RateLimitedError, UnauthorizedError
from sd_inpaint.http.bento.internals import Info, OpenAPISpecification, PathItem
from sd_inpaint.http.endpoints.health import TAG
from sd_inpaint.http.middleware.path_prefix import path_prefix
from sd_inpaint.http.wire.errors import (
    STATUSES,
    Error,
    ForbiddenHostError,
    ForbiddenOriginError,
    InternalError,
    NotReadyError,
    OpenAIError,
    TooManyConnectionsError,
    UploadTimeoutError,
    error_body,
    error_headers,
)
from sd_inpaint.http.wire.headers import REQUEST_ID
from sd_inpaint.http.wire.json_body import JSON
from sd_inpaint.http.wire.operations import Answer, DescribedRoute, JsonSchema, Operation, json_answer
from sd_inpaint.http.wire.parameters import SCHEMA_REFERENCE
from sd_inpaint.http.wire.paths import EDITS
from sd_inpaint.schema import InpaintParameters

VERSION: Final = "3.1.0"
"""Of OpenAPI: the first whose schemas are JSON Schema, as pydantic writes it, and one that most tools read."""

Described = tuple[str, str, Operation]
"""A path, a method in small letters, and what it does."""

EVERYWHERE: Final = (
    MalformedBodyError,
    UploadTimeoutError,
    BodyTooLargeError,
    TooManyConnectionsError,
    ForbiddenHostError,
    InternalError,
)
"""What any request can meet, before it reaches an endpoint or in it."""

WITH_KEY: Final = (UnauthorizedError, RateLimitedError)
"""What is met at each path that is not open to everybody."""

_UP: Final = {200: Answer("It does.", {"text/plain": {"type": "string"}})}

BUILT_IN: Final[tuple[Described, ...]] = (
    ("/livez", "get", Operation("livez", TAG, "Whether the process runs", _UP)),
    ("/healthz", "get", Operation("healthz", TAG, "Whether the process runs", _UP)),
    ("/readyz", "get", Operation("readyz", TAG, "Whether a request would be taken now", _UP, (NotReadyError,))),
    (
        "/metrics",
        "get",
        Operation(
            "metrics", TAG, "Figures for Prometheus", {200: Answer("The figures.", {"text/plain": {"type": "string"}})}
        ),
    ),
    (
        "/schema.json",
        "get",
        Operation("schema", TAG, "What BentoML's own clients read", {200: json_answer("The schema.", dict[str, Any])}),
    ),
)
"""What BentoML itself serves."""

DOCS: Final = Operation("docs", TAG, "This document", {200: json_answer("The document.", dict[str, Any])})

SECURITY_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "password": {"type": "http", "scheme": "basic", "description": "The key as the password, with any user."},
}

TAGS: Final = {
    "inpainting": "Repaint a picture and wait for it.",
    "jobs": "Repaint a picture in the background.",
    TAG: "The service's health, its limits, its figures.",
    "openai": "The dialect of OpenAI's clients.",
    "web-ui": "The dialect of AUTOMATIC1111's web UI.",
}

_HEADER_REFERENCE: Final = {"$ref": f"#/components/headers/{REQUEST_ID}"}

_REQUEST_ID: Final = {
    "name": REQUEST_ID,
    "in": "header",
    "required": False,
    "description": "Your id of the request; one that the log cannot print is replaced.",
    "schema": {"type": "string"},
}


def docs_route(specification: Callable[[], OpenAPISpecification]) -> DescribedRoute:
    """Returns the route of ``/docs.json``, whose addresses begin where the caller reached it."""
    # Nothing in it changes while this process runs.
    made = functools.cache(lambda: specification().asdict())

    async def get_docs(request: Request) -> Response:
        return JSONResponse({**made(), "servers": [{"url": path_prefix(request) or "."}]})

    return DescribedRoute("/docs.json", get_docs, DOCS)


def describe(
    title: str, described: Iterable[Described], *, open_paths: Collection[str], needs_key: bool
) -> OpenAPISpecification:
    """Makes the document.

    Args:
        title: The service's name.
        described: Everything that is served, but for what BentoML serves by itself.
        open_paths: Those that need no key.
        needs_key: Whether the others do.
    """
    served = [*described, *BUILT_IN, ("/docs.json", "get", DOCS)]
    document = _Document(served, open_paths=open_paths, needs_key=needs_key)
    paths: dict[str, dict[str, Any]] = {}
    for path, method, operation in served:
        paths.setdefault(path, {})[method] = document.operation(path, method, operation)
    about = "Repaints the white part of a mask in a picture, from a text prompt."
    components: Any = document.components()
    tags: Any = [{"name": name, "description": text} for name, text in TAGS.items()]
    return OpenAPISpecification(
        openapi=VERSION,
        info=Info(title=title, version=__version__, description=about),
        paths={path: PathItem(**methods) for path, methods in sorted(paths.items())},
        servers=[{"url": "."}],
        tags=tags,
        components=components,
    )


def errors_of(method: str, operation: Operation, *, is_open: bool) -> list[type[InpaintError]]:
    """Returns every error that a request can meet: the operation's own, and those that are met on the way to it."""
    with_key = () if is_open else WITH_KEY
    from_pages = () if method == "get" else (ForbiddenOriginError,)
    return [*operation.errors, *EVERYWHERE, *with_key, *from_pages]


class _Document:
    """A document in the making: its shared parts are noted where they are first used."""

    def __init__(self, served: Iterable[Described], *, open_paths: Collection[str], needs_key: bool) -> None:
        self._open_paths = open_paths
        self._security: list[dict[str, list[str]]] = [{name: []} for name in SECURITY_SCHEMES]
        if not needs_key:
            self._security.append({})
        self._responses: dict[str, Any] = {}
        types = {repr(kind): kind for *_, operation in served for kind in _types(operation)}
        types[repr(InpaintParameters)] = InpaintParameters
        self._inline, shared = TypeAdapter.json_schemas(
            [(name, "validation", TypeAdapter(kind)) for name, kind in types.items()], ref_template=SCHEMA_REFERENCE
        )
        self._schemas = {name: schema for name, schema in shared["$defs"].items() if name != InpaintParameters.__name__}

    def components(self) -> dict[str, Any]:
        """Returns everything that operations refer to."""
        return {
            "schemas": self._schemas,
            "responses": self._responses,
            "headers": {REQUEST_ID: {"description": "The request's id.", "required": True, "schema": _TEXT}},
            "parameters": {REQUEST_ID: _REQUEST_ID},
            "securitySchemes": SECURITY_SCHEMES,
        }

    def operation(self, path: str, method: str, operation: Operation) -> dict[str, Any]:
        """Returns one operation as the document has it."""
        is_open = path in self._open_paths
        parameters: list[dict[str, Any]] = [parameter.shown() for parameter in operation.parameters]
        parameters.append({"$ref": f"#/components/parameters/{REQUEST_ID}"})
        shown: dict[str, Any] = {
            "operationId": operation.id,
            "tags": [operation.tag],
            "summary": operation.summary,
            "parameters": parameters,
            "security": [] if is_open else self._security,
            "responses": {str(status): self._answer(answer) for status, answer in operation.answers.items()}
            | self._errors(operation, errors_of(method, operation, is_open=is_open)),
        }
        if operation.description:
            shown["description"] = operation.description
        if operation.body is not None:
            content = {"schema": self._schema(operation.body.schema)}
            if operation.body.encoding:
                content["encoding"] = dict(operation.body.encoding)
            shown["requestBody"] = {"required": True, "content": {operation.body.media_type: content}}
        return shown

    def _schema(self, kind: Any) -> JsonSchema:
        return kind if isinstance(kind, dict) else dict(self._inline[(repr(kind), "validation")])

    def _answer(self, answer: Answer) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "description": answer.description,
            "headers": {name: _header(about) for name, about in answer.headers.items()}
            | {REQUEST_ID: _HEADER_REFERENCE},
        }
        if answer.content:
            shown["content"] = {name: {"schema": self._schema(kind)} for name, kind in answer.content.items()}
        if answer.example is not None:
            shown["content"][JSON]["example"] = answer.example
        if answer.links:
            shown["links"] = dict(answer.links)
        return shown

    def _errors(self, operation: Operation, errors: Iterable[type[InpaintError]]) -> dict[str, Any]:
        by_status: dict[int, dict[str, type[InpaintError]]] = {}
        for error in errors:
            by_status.setdefault(STATUSES[error.code], {}).setdefault(error.code, error)
        return {
            str(status): self._error(operation, status, dict(sorted(found.items())))
            for status, found in sorted(by_status.items())
        }

    def _error(self, operation: Operation, status: int, errors: Mapping[str, type[InpaintError]]) -> dict[str, Any]:
        kind = operation.error_schemas.get(status, operation.error_schema)
        name = ".".join([kind.__name__, *errors])
        if name not in self._responses:
            content: dict[str, Any] = {"schema": self._schema(kind)}
            if kind in _SHAPES:
                content["examples"] = {code: {"value": _example(error, kind)} for code, error in errors.items()}
            headers = {name: _header({"description": text}) for name, text in error_headers(errors).items()}
            self._responses[name] = {
                "description": ", ".join(errors),
                "headers": {**headers, REQUEST_ID: _HEADER_REFERENCE},
                "content": {JSON: content},
            }
        return {"$ref": f"#/components/responses/{name}"}


_SHAPES: Final[Mapping[Any, str]] = {Error: "", OpenAIError: EDITS}
"""Shape of errors → a path whose errors have it."""


class _Example:
    """An error that never happened."""

    def __init__(self, error: type[InpaintError]) -> None:
        self.code = error.code
        self.facts: dict[str, object] = {}
        self._sentence = " ".join((error.__doc__ or "").split("\n\n")[0].replace("``", "").split())

    def __str__(self) -> str:
        return self._sentence


def _example(error: type[InpaintError], kind: Any) -> dict[str, object]:
    return error_body(_Example(error), _SHAPES[kind])


_TEXT: Final[JsonSchema] = {"type": "string"}


def _header(about: JsonSchema) -> JsonSchema:
    return {"schema": _TEXT, **about}


def _types(operation: Operation) -> Iterable[Any]:
    kinds = [kind for answer in operation.answers.values() for kind in answer.content.values()]
    kinds += [operation.error_schema, *operation.error_schemas.values()]
    if operation.body is not None:
        kinds.append(operation.body.schema)
    return (kind for kind in kinds if not isinstance(kind, dict))
