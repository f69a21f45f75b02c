"""Texts of a form → checked parameters. Numbers are read more strictly than by Python or JSON."""

import functools
import re
import types
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, TypeVar, Union, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core.core_schema import ErrorType

from sd_inpaint.errors import InvalidParameterError, MissingFieldError
from sd_inpaint.prompt_syntax import parse, take_loras
from sd_inpaint.schema import InpaintParameters, PromptSyntax

T = TypeVar("T")

_WHOLE = re.compile(r"\s*([+-]?\d{1,25})(?:\.0{0,25})?\s*", re.ASCII)
_DECIMAL = re.compile(r"\s*([+-]?(?:\d{1,25}(?:\.\d{0,50})?|\.\d{1,50})(?:[eE][+-]?\d{1,3})?)\s*", re.ASCII)
_SWITCHES = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}

_SCRIPTS_NOTHING = ("undefined", "[object Object]")
"""What JavaScript's FormData makes of a variable that was never set, and of an object: no picture is meant by it."""

_EXACT = 2**53
"""Whole numbers below it are what they are as floats too."""

_LONGEST = 10**25
"""No number that is read here is longer, and of one with thousands of digits Python makes no text."""

_PYDANTIC_ERRORS = frozenset(get_args(ErrorType))

SCHEMA_REFERENCE = "#/components/schemas/{model}"
"""Where the OpenAPI document has the schema of a type."""

SHOWN_CHARACTERS = 40
"""A wrong value is quoted up to this length."""


@functools.cache
def parameter_schemas() -> dict[str, dict[str, Any]]:
    """Returns each parameter's JSON Schema, as a form sends it: what has no value is left out, and never null.

    It is the same dictionary each time: for reading only.
    """
    properties: dict[str, dict[str, Any]] = InpaintParameters.model_json_schema(ref_template=SCHEMA_REFERENCE)[
        "properties"
    ]
    return {name: _not_null(schema) for name, schema in properties.items()}


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns an optional field's schema without its null; a title says what the name says."""
    kept = {key: value for key, value in schema.items() if key not in ("anyOf", "title")}
    if "anyOf" in schema:
        (kind,) = (each for each in schema["anyOf"] if each != {"type": "null"})
        kept = {key: value for key, value in (kind | kept).items() if key != "default"}
    return kept


def read_parameters(texts: Mapping[str, str], aliases: Mapping[str, str] | None = None) -> InpaintParameters:
    """Reads and checks everything a caller may set besides the files.

    Args:
        texts: Each by its name in the schema.
        aliases: A dialect's own names for some of them, such as ``steps``, for messages.

    Raises:
        MissingFieldError: If a required text is missing.
        InvalidParameterError: If a value is of another type or out of bounds; the message says which, and the bounds.
            So too if a prompt asks for what its language has and this service does not do.
    """
    aliases = aliases or {}
    fields = InpaintParameters.model_fields
    for name, field in fields.items():
        if field.is_required() and name not in texts:
            shown = aliases.get(name, name)
            raise MissingFieldError(f"The field {shown!r} is missing; it must be text.", field=shown)
    return _checked({}, texts, aliases)


def replace_parameters(parameters: InpaintParameters, texts: Mapping[str, str]) -> InpaintParameters:
    """Returns the parameters with those in their place that a later request sends; raises as for the first."""
    return _checked(parameters.model_dump(), texts, {})


def as_text(name: str, value: object) -> str:
    """Returns a JSON value as the text that a form would have for it: ``true``, ``12``, ``0.5``.

    Raises:
        InvalidParameterError: If it is no number, switch or text.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    if isinstance(value, int) and abs(value) >= _LONGEST:
        raise InvalidParameterError(f"{name} is too large a number.", field=name)
    if not isinstance(value, (int, float, str)):
        raise InvalidParameterError(f"{name} must be a number, true or false, or text.", field=name)
    return str(value)


def read_whole(name: str, value: object, least: int, most: int) -> int:
    """Reads a whole number within bounds, out of a text or a JSON value.

    Raises:
        InvalidParameterError: If it is none.
    """
    text = as_text(name, value)
    found = _WHOLE.fullmatch(text)
    if found is None or not least <= int(found[1]) <= most:
        raise InvalidParameterError(
            f"{name} must be a whole number from {least} to {most}, not {_shown(text)}.",
            field=name,
            value=text[:SHOWN_CHARACTERS],
            minimum=least,
            maximum=most,
        )
    return int(found[1])


def read_decimal(name: str, value: object) -> float:
    """Reads a number, out of a text or a JSON value.

    Raises:
        InvalidParameterError: If it is none.
    """
    return _read_as(name, value, _read_decimal, "a number")


def read_switch(name: str, value: object) -> bool:
    """Reads true or false, out of a text or a JSON value.

    Raises:
        InvalidParameterError: If it is neither.
    """
    return _read_as(name, value, _read_switch, "true or false")


def _read_as(name: str, value: object, read: Callable[[str], T], what: str) -> T:
    text = as_text(name, value)
    try:
        return read(text)
    except ValueError as error:
        message = f"{name} must be {what}, not {_shown(text)}."
        raise InvalidParameterError(message, field=name, value=text[:SHOWN_CHARACTERS]) from error


def read_seconds(name: str, text: str, longest: float) -> float:
    """Reads a duration in seconds, more than 0 and at most ``longest``.

    Raises:
        InvalidParameterError: If it is none.
    """
    found = _DECIMAL.fullmatch(text)
    if found is None or not 0 < float(found[1]) <= longest:
        raise InvalidParameterError(
            f"{name} must be a number of seconds, greater than 0 and at most {longest:g}, not {_shown(text)}.",
            field=name,
            value=text[:SHOWN_CHARACTERS],
            maximum=longest,
        )
    return float(found[1])


def describe_bounds(field: FieldInfo) -> dict[str, Any]:
    """Returns a field's bounds by name: ``minimum``, ``above``, ``maximum``, ``below``, ``max_length``, ``choices``."""
    bounds: dict[str, Any] = {}
    for constraint in field.metadata:
        match constraint:
            case Ge(ge=bound):
                bounds["minimum"] = bound
            case Gt(gt=bound):
                bounds["above"] = bound
            case Le(le=bound):
                bounds["maximum"] = bound
            case Lt(lt=bound):
                bounds["below"] = bound
            case MaxLen(max_length=bound):
                bounds["max_length"] = bound
    kind = _kind(field)
    if issubclass(kind, StrEnum):
        bounds["choices"] = [str(choice) for choice in kind]
    return bounds


def describe_type(field: FieldInfo) -> str:
    """Returns a field's type as JSON Schema names it: ``string``, ``integer``, ``number`` or ``boolean``."""
    return next(name for kind, name in _JSON_TYPES.items() if issubclass(_kind(field), kind))


def _checked(known: Mapping[str, object], texts: Mapping[str, str], aliases: Mapping[str, str]) -> InpaintParameters:
    fields = InpaintParameters.model_fields
    texts = _with_loras(texts, known)
    values = {name: _read(name, fields[name], text, aliases) for name, text in texts.items()}
    try:
        parameters = InpaintParameters.model_validate({**known, **values})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        # Pydantic's own findings get this service's wording; the schema's checks have their own messages.
        sentence = None if first["type"] in _PYDANTIC_ERRORS else _in_terms_of(aliases, f"{first['msg']}.")
        raise _refusal(aliases.get(name, name), fields[name], texts.get(name, ""), sentence) from error
    for name in ("prompt", "negative_prompt"):
        if name in texts and parameters.syntax is not None:
            parse(texts[name], parameters.syntax, name=name)
    return parameters


def _in_terms_of(aliases: Mapping[str, str], sentence: str) -> str:
    for ours, theirs in aliases.items():
        sentence = re.sub(rf"\b{ours}\b", theirs, sentence)
    return sentence


def _with_loras(texts: Mapping[str, str], known: Mapping[str, object]) -> Mapping[str, str]:
    """Puts the LoRAs of a prompt in the web UI's language beside those that ``loras`` has."""
    syntax = texts.get("prompt_syntax", str(known.get("prompt_syntax", ""))).strip()
    if syntax != PromptSyntax.A1111 or "<lora:" not in texts.get("prompt", ""):
        return texts
    if not _SWITCHES.get(texts.get("prompt_weights", "true").strip().lower(), True):
        return texts  # taken literally
    prompt, loras = take_loras(texts["prompt"])
    return {**texts, "prompt": prompt, "loras": ",".join(filter(None, (texts.get("loras", ""), loras)))}


def _kind(field: FieldInfo) -> type:
    """Returns the one type that a field has, but for None."""
    annotation = field.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (kind for kind in get_args(annotation) if kind is not type(None))
    return cast("type", annotation)


def _read(name: str, field: FieldInfo, text: str, aliases: Mapping[str, str]) -> object:
    kind = _kind(field)
    if kind is str:
        if text.strip() in _SCRIPTS_NOTHING:
            shown = aliases.get(name, name)
            sentence = f"{shown} must be a text, not {text.strip()!r}, which scripts make of a value that is none."
            raise _refusal(shown, field, text, sentence)
        return text
    reader = _READERS.get(kind, _read_choice)
    try:
        return reader(text)
    except ValueError as error:
        raise _refusal(aliases.get(name, name), field, text) from error


def _read_choice(text: str) -> str:
    return text.strip().lower()


def _read_whole(text: str) -> int:
    if (found := _WHOLE.fullmatch(text)) is None:
        raise ValueError(text)
    return int(found[1])


def _read_decimal(text: str) -> float:
    if (found := _DECIMAL.fullmatch(text)) is None:
        raise ValueError(text)
    return float(found[1])


def _read_switch(text: str) -> bool:
    if (found := _SWITCHES.get(text.strip().lower())) is None:
        raise ValueError(text)
    return found


_READERS: dict[type, Callable[[str], object]] = {int: _read_whole, float: _read_decimal, bool: _read_switch}

_PHRASES = {
    "minimum": "from {}",
    "above": "above {}",
    "maximum": "to {}",
    "below": "below {}",
    "max_length": "of at most {} characters",
}

# bool before int, of which it is a kind.
_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}

_NOUNS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _refusal(name: str, field: FieldInfo, text: str, sentence: str | None = None) -> InvalidParameterError:
    bounds = describe_bounds(field)
    noun = f"one of {', '.join(bounds['choices'])}" if "choices" in bounds else _NOUNS[_kind(field)]
    limits = [phrase.format(bounds[bound]) for bound, phrase in _PHRASES.items() if bound in bounds]
    wanted = " ".join([noun, *limits])
    got = f"{len(text)} characters" if "max_length" in bounds else _shown(text)
    return InvalidParameterError(
        sentence or f"{name} must be {wanted}, not {got}.", field=name, value=text[:SHOWN_CHARACTERS], **bounds
    )


def _shown(text: str) -> str:
    shortened = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
    return repr(shortened)
