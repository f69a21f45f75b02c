"""Places in a picture as people type them: pixels from its upper left corner, or percent of its sides."""

import re
from typing import Final

from sd_inpaint.errors import InvalidParameterError

_LENGTH: Final = re.compile(r"(-?\d+(?:\.\d+)?)(%|px)?")


def length(text: str, side: int, option: str) -> float:
    """Reads a length.

    Args:
        text: Such as ``120``, ``12.5`` or ``25%``.
        side: What 100 % are, in pixels.
        option: For messages.

    Returns:
        Pixels.

    Raises:
        InvalidParameterError: If it is none.
    """
    found = _LENGTH.fullmatch(text.strip())
    if found is None:
        raise InvalidParameterError(f"{option}: {text!r} is not a number of pixels or percent.", field=option)
    value = float(found[1])
    return value * side / 100 if found[2] == "%" else value


def corners(text: str, size: tuple[int, int], option: str) -> tuple[float, float, float, float]:
    """Reads ``LEFT,TOP,RIGHT,BOTTOM``; raises as :func:`length`, also if there is nothing between them."""
    parts = text.split(",")
    if len(parts) != 4:
        raise InvalidParameterError(f"{option}: {text!r} is not LEFT,TOP,RIGHT,BOTTOM.", field=option)
    left, top, right, bottom = (length(part, size[n % 2], option) for n, part in enumerate(parts))
    if left >= right or top >= bottom:
        raise InvalidParameterError(
            f"{option}: {text!r} is empty: it is LEFT,TOP,RIGHT,BOTTOM, and not a width and a height.", field=option
        )
    return left, top, right, bottom


def points(text: str, size: tuple[int, int], option: str) -> list[tuple[float, float]]:
    """Reads ``X,Y X,Y X,Y``; raises as :func:`length`, also if there are fewer than three."""
    found = []
    for pair in text.split():
        parts = pair.split(",")
        if len(parts) != 2:
            raise InvalidParameterError(f"{option}: {pair!r} is not X,Y.", field=option)
        found.append((length(parts[0], size[0], option), length(parts[1], size[1], option)))
    if len(found) < 3:
        raise InvalidParameterError(f"{option}: {text!r} has fewer than three points.", field=option)
    return found
