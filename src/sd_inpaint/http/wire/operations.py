"""What a route says of itself. The OpenAPI document is made of this, of the schema and of the routes that are served.

A route without it is not served: :class:`DescribedRoute` is the only kind that endpoints make.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sd_inpaint.errors import InpaintError
from sd_inpaint.http.wire.errors import Error, answering
from sd_inpaint.http.wire.forms import MULTIPART, FormFields
from sd_inpaint.http.wire.json_body import JSON

JsonSchema = dict[str, Any]
"""A JSON Schema (2020-12) as it stands in the document."""

FILE: Final[JsonSchema] = {"type": "string", "format": "binary"}

Base64 = Annotated[str, WithJsonSchema({"type": "string", "contentEncoding": "base64"})]

PICTURES: Final = "image/png, image/jpeg, image/webp, image/avif, image/heic, image/tiff, image/bmp, image/gif"
"""What a file field may hold; its bytes decide, not what it says that it is."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter outside of the body.

    Attributes:
        name: As it is sent.
        place: ``query``, ``header`` or ``path``.
        schema: Its values.
        description: For people.
    """

    name: str
    place: str
    schema: JsonSchema
    description: str

    def shown(self) -> dict[str, Any]:
        """Returns it as the document has it."""
        about = {"name": self.name, "in": self.place, "required": self.place == "path"}
        return {**about, "description": self.description, "schema": self.schema}


@dataclass(frozen=True, slots=True)
class Answer:
    """One response that is no error.

    Attributes:
        description: For people.
        content: Media type → a type that pydantic can describe, or a JSON Schema.
        headers: Name → what it holds; those whose ``required`` is true are always sent.
        links: As OpenAPI has them: which operation an answer leads to.
        example: Of a JSON answer.
    """

    description: str
    content: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, JsonSchema] = field(default_factory=dict)
    links: Mapping[str, JsonSchema] = field(default_factory=dict)
    example: object = None


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body.

    Attributes:
        media_type: The one that is read.
        schema: A type that pydantic can describe, or a JSON Schema.
        encoding: Of a form's fields, as OpenAPI has it.
        examples: By name.
    """

    media_type: str
    schema: Any
    encoding: Mapping[str, JsonSchema] = field(default_factory=dict)
    examples: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """What one method does at one path.

    Attributes:
        id: Its name in generated clients, and in the document.
        tag: The group that it belongs to.
        summary: One line.
        answers: Status → response, of those that are no errors.
        errors: Those that the endpoint itself answers with; what every request can meet is added.
        description: More than the summary; may be empty.
        parameters: Of the address and of the header.
        body: What it reads; None if it reads nothing.
        error_schema: The shape of its errors.
        error_schemas: Status → their shape where it is another one.
    """

    id: str
    tag: str
    summary: str
    answers: Mapping[int, Answer]
    errors: Collection[type[InpaintError]] = ()
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    error_schema: Any = Error
    error_schemas: Mapping[int, Any] = field(default_factory=dict)


class DescribedRoute(Route):
    """A route that says what it does.

    Args:
        path: Below the application that it is part of.
        answer: Answers; its errors on purpose become responses.
        operation: What it says.
        method: The one that it answers; GET brings HEAD with it.

    Attributes:
        operation: As given.
        method: In small letters, as OpenAPI has it.
    """

    def __init__(
        self,
        path: str,
        answer: Callable[[Request], Awaitable[Response]],
        operation: Operation,
        *,
        method: str = "GET",
    ) -> None:
        super().__init__(path, answering(answer), methods=[method])
        self.operation = operation
        self.method = method.lower()


def one_of(values: Iterable[object]) -> JsonSchema:
    """Returns the schema of some plain values. Each part of it has one type, which generators of clients ask for."""
    plain = [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
    texts = [value for value in plain if isinstance(value, str)]
    kinds: list[JsonSchema] = [{"type": "string", "enum": list(dict.fromkeys(texts))}] if texts else []
    switches = {value for value in plain if isinstance(value, bool)}
    kinds += [{"type": "boolean"}] if len(switches) == 2 else [{"const": value} for value in switches]
    numbers = [value for value in plain if isinstance(value, (int, float)) and not isinstance(value, bool)]
    kinds += [{"const": value} for value in dict.fromkeys(numbers)]
    kinds += [{"type": "null"}] if None in plain else []
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def json_answer(description: str, schema: Any, **more: Any) -> Answer:
    """Returns an answer in JSON."""
    return Answer(description, {JSON: schema}, **more)


def form_body(
    fields: FormFields,
    texts: Mapping[str, JsonSchema],
    files: Mapping[str, str],
    *,
    required: Collection[str] = (),
) -> Body:
    """Describes a form by the fields that are read.

    Args:
        fields: Those of the reader.
        texts: What each text field holds.
        files: What each file field is for; other names of the same one are left out.
        required: Further fields that must be sent, besides the reader's own.
    """
    properties = {name: FILE | {"description": text} for name, text in files.items()}
    properties |= {name: texts[name] for name in fields.texts}
    schema: JsonSchema = {"type": "object", "properties": properties, "additionalProperties": False}
    if needed := [name for name in properties if name in {*fields.files, *required}]:
        schema["required"] = needed
    encoding: dict[str, JsonSchema] = {name: {"contentType": PICTURES} for name in files}
    return Body(MULTIPART, schema, encoding)
