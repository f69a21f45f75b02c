"""A picture in memory, and the arrays that pictures and masks are made of."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""Levels from 0 to 255: colours (H, W, 3), or one channel (H, W)."""

Flags: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture as it is seen: upright, 8 bits a channel. Immutable but for its arrays, which nobody writes to.

    Attributes:
        rgb: (H, W, 3) uint8, C-contiguous, in the colours of ``icc_profile`` (sRGB where that is None).
        alpha: (H, W) uint8, 0 transparent to 255 opaque, not multiplied into ``rgb``; None for a picture without.
        icc_profile: The RGB profile of ``rgb``: the file's own, or one that says what the file said otherwise.
        exif: The camera's EXIF data for the result, without the orientation; None unless it was requested.
    """

    rgb: Pixels
    alpha: Pixels | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.rgb.shape[1])

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.rgb.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height
