"""LoRAs by name, each with its weight: the text of a request ↔ its parts."""

import re
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from sd_inpaint.errors import InvalidLorasError

WEIGHT_MAX: Final = 2.0
"""Largest weight either way. Negative ones undo what a LoRA adds, as slider LoRAs are used; more gives noise."""

MAX_LORAS: Final = 4
"""LoRAs of one request: more than people combine, and each lengthens the switch."""

_WEIGHT = re.compile(r"[+-]?(?:\d{1,2}(?:\.\d{0,6})?|\.\d{1,6})", re.ASCII)

_SHOWN_NAMES: Final = 50
_SHOWN_CHARACTERS: Final = 60


class LoraWeight(NamedTuple):
    """One LoRA of a request.

    Attributes:
        name: As the operator's file is called, without its ending.
        weight: Factor for what it adds to the model's weights.
    """

    name: str
    weight: float


def parse_loras(text: str) -> list[LoraWeight]:
    """Reads ``name:0.8,other:0.5``; a name without a weight has 1.

    >>> parse_loras("ink:0.8, paper")
    [LoraWeight(name='ink', weight=0.8), LoraWeight(name='paper', weight=1.0)]

    Raises:
        InvalidLorasError: If it reads otherwise.
    """
    loras = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, weight = (piece.strip() for piece in part.partition(":"))
        if not name or (colon and not _WEIGHT.fullmatch(weight)):
            shown = part[:_SHOWN_CHARACTERS]
            raise InvalidLorasError(f"loras must be names with weights, such as name:0.8,other:0.5, not {shown!r}.")
        loras.append(LoraWeight(name, float(weight) if colon else 1.0))
    return loras


def write_loras(loras: Iterable[LoraWeight]) -> str:
    """Returns the one text for a set: by name, without those of weight 0."""
    return ",".join(f"{name}:{weight:g}" for name, weight in sorted(loras) if weight)


def check_loras(text: str, known: Collection[str]) -> str:
    """Returns the one text for a request's set, as :func:`write_loras`; equal sets have equal texts.

    Args:
        text: As it was sent.
        known: The names of the operator's LoRAs.

    Raises:
        InvalidLorasError: If it does not read, has too many, a weight out of bounds, or a name twice or not known.
    """
    try:
        loras = parse_loras(text)
        _check_bounds(loras)
        for name, _ in loras:
            if name not in known:
                raise InvalidLorasError(f"There is no LoRA named {name[:_SHOWN_CHARACTERS]!r}.")
    except InvalidLorasError as error:
        raise InvalidLorasError(f"{error} {_offer(known)}", field="loras", loras=sorted(known)) from None
    return write_loras(loras)


def _check_bounds(loras: list[LoraWeight]) -> None:
    if len(loras) > MAX_LORAS:
        raise InvalidLorasError(f"At most {MAX_LORAS} LoRAs can be combined, not {len(loras)}.")
    names = [lora.name for lora in loras]
    for name, weight in loras:
        if abs(weight) > WEIGHT_MAX:
            raise InvalidLorasError(
                f"The weight of {name[:_SHOWN_CHARACTERS]!r} must be from {-WEIGHT_MAX:g} to {WEIGHT_MAX:g}, "
                f"not {weight:g}."
            )
        if names.count(name) > 1:
            raise InvalidLorasError(f"The LoRA {name[:_SHOWN_CHARACTERS]!r} is named more than once.")


def _offer(known: Collection[str]) -> str:
    if not known:
        return "This server has no LoRAs."
    names = sorted(known)
    more = f" and {len(names) - _SHOWN_NAMES} more, listed in /sd-inpaint/info" if len(names) > _SHOWN_NAMES else ""
    return f"This server has: {', '.join(names[:_SHOWN_NAMES])}{more}."
