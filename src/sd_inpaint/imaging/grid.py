"""Canvas sides from a small set, so that canvases share calls, graphs and compiled shapes."""

import math
from dataclasses import dataclass
from typing import Final

STEPS: Final = 8
"""Grid steps a native side: 64 pixels for a model of 512. Finer shares less, coarser changes the context more."""

MAX_GROWTH: Final = 1.1
"""How many times the pixels a canvas may have on the grid."""


def grid_step(native_size: int, stride: int) -> int:
    """Returns the grid's step in pixels: a multiple of the stride of which the native size is one."""
    return native_size // STEPS if native_size % (STEPS * stride) == 0 else stride


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a canvas, and how much the box it shows may change.

    Attributes:
        length: Of the box, in picture pixels.
        least: Fewest picture pixels that hold the hole with some context.
        most: The picture's own side.
        scale: Canvas pixels for a picture pixel.
    """

    length: int
    least: int
    most: int
    scale: float

    def on_grid(self, step: int, *, down: bool) -> int:
        """The length that brings the canvas to the nearest place on the grid, or to the one below it.

        Returns:
            Picture pixels; the length as it is where the picture or the hole leaves no room for another.
        """
        exact = self.length * self.scale / step
        below, above = math.floor(exact), math.ceil(exact)
        nearest = (below, above) if exact - below <= above - exact else (above, below)
        for multiple in (below,) if down else nearest:
            length = round(multiple * step / self.scale)
            if multiple > 0 and self.least <= length <= self.most:
                return length
        return self.length


def scaled_side(length: int, scale: float, step: int) -> int:
    """Returns a side in canvas pixels: on the grid, if it is there to the rounding of a picture pixel."""
    exact = length * scale
    multiple = round(exact / step) * step
    return multiple if multiple > 0 and abs(multiple - exact) <= scale / 2 else max(1, round(exact))
