"""A command's options for the parameters of a request, made from the schema: names, types, bounds, defaults, help."""

import inspect
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from sd_inpaint.http.wire.parameters import describe_bounds, describe_type
from sd_inpaint.schema import InpaintParameters

SHORTER = {
    "negative_prompt": ("--negative",),
    "num_inference_steps": ("--steps",),
    "guidance_scale": ("--guidance",),
    "num_images": ("-n",),
}
"""Other names of options that are typed often."""

PANEL = "Parameters of the request"

_TYPES: dict[str, type] = {"integer": int, "number": float, "boolean": bool, "string": str}


def with_parameters(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command an option for each parameter but the prompt.

    Args:
        command: Takes ``asked``, a dictionary of those that were given, beside its own arguments.
    """
    own = [each for name, each in inspect.signature(command).parameters.items() if name != "asked"]
    fields = {name: field for name, field in InpaintParameters.model_fields.items() if name != "prompt"}

    @wraps(command)
    def wrapped(**given: Any) -> None:
        asked = {name: value for name in fields if (value := given.pop(name)) is not None}
        command(**given, asked=asked)

    made = [_option(name, field) for name, field in fields.items()]
    signature = inspect.Signature([each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in [*own, *made]])
    wrapped.__signature__ = signature  # type: ignore[attr-defined]  # what Typer reads
    wrapped.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    return wrapped


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    kind, bounds = describe_type(field), describe_bounds(field)
    long = f"--{name.replace('_', '-')}"
    settings: dict[str, Any] = {
        "help": _help(field, bounds),
        "show_default": False if field.default is None else str(field.default).lower() or "empty",
        "rich_help_panel": PANEL,
    }
    value_type = (
        StrEnum(name, {choice: choice for choice in bounds["choices"]}) if "choices" in bounds else _TYPES[kind]
    )
    if kind in ("integer", "number"):
        settings |= {"min": bounds.get("minimum"), "max": bounds.get("maximum")}
    flags = (*SHORTER.get(name, ()), f"{long}/--no-{long[2:]}" if kind == "boolean" else long)
    annotation = Annotated[value_type | None, typer.Option(*flags, **settings)]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _help(field: FieldInfo, bounds: dict[str, Any]) -> str:
    # Click shows closed bounds by itself.
    above = f" Above {bounds['above']:g}." if "above" in bounds else ""
    return f"{field.description}{above}"
