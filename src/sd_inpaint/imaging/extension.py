"""Outpainting: a picture with room around it, and the mask of that room."""

from dataclasses import dataclass

import numpy as np

from sd_inpaint.errors import ImageTooLargeError
from sd_inpaint.imaging import masks
from sd_inpaint.picture import Picture, Pixels


@dataclass(frozen=True, slots=True)
class Sides:
    """Pixels added on each side of a picture."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


def sides_for_ratio(size: tuple[int, int], ratio: float) -> Sides:
    """Returns the sides that give a picture a ratio, half on each: the least, and none are cut.

    Args:
        size: (width, height) in pixels.
        ratio: Width by height.
    """
    width, height = size
    wanted = round(height * ratio)
    if wanted > width:
        return Sides(left=(wanted - width) // 2, right=wanted - width - (wanted - width) // 2)
    more = max(round(width / ratio) - height, 0)
    return Sides(top=more // 2, bottom=more - more // 2)


def extend(picture: Picture, sides: Sides, overlap: int, *, max_pixels: int) -> tuple[Picture, Pixels]:
    """Adds room around a picture.

    The room continues the picture's colours smoothly, for a ``strength`` below 1 to begin with.

    Args:
        picture: The picture.
        sides: How much.
        overlap: Pixels of the picture beside the room in which the mask fades from white to black, so that what is
            painted there meets the picture without a seam.
        max_pixels: Largest width times height of the larger picture.

    Returns:
        The larger picture, opaque in its room, and its mask: (H, W) uint8.

    Raises:
        ImageTooLargeError: If it would have more pixels; nothing is made then.
    """
    width, height = picture.width + sides.left + sides.right, picture.height + sides.top + sides.bottom
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"With this room the picture has {width}x{height} pixels, more than the {max_pixels} of "
            "SD_INPAINT_MAX_PIXELS.",
            size=[width, height],
            max_pixels=max_pixels,
        )
    around = ((sides.top, sides.bottom), (sides.left, sides.right))
    mask = np.pad(_fading(picture, sides, overlap), around, constant_values=255)
    room = np.pad(np.zeros((picture.height, picture.width), np.uint8), around, constant_values=255)
    rgb = masks.fill_hole(np.pad(picture.rgb, (*around, (0, 0)), mode="edge"), room)
    alpha = None if picture.alpha is None else np.pad(picture.alpha, around, constant_values=255)
    return Picture(np.ascontiguousarray(rgb), alpha, picture.icc_profile, picture.exif), mask


def _fading(picture: Picture, sides: Sides, overlap: int) -> Pixels:
    """The mask within the picture: near white beside room, black ``overlap`` pixels further in."""
    rows = _ramp(picture.height, sides.top > 0, sides.bottom > 0, overlap)
    columns = _ramp(picture.width, sides.left > 0, sides.right > 0, overlap)
    return np.maximum(rows[:, None], columns[None, :])


def _ramp(size: int, at_start: bool, at_end: bool, overlap: int) -> Pixels:
    levels = np.zeros(size, np.uint8)
    reach = min(overlap, size)
    # Neither end is repeated: the first pixel is not quite white, the one behind the last is black.
    fading = np.round(255 * np.arange(overlap, 0, -1) / (overlap + 1)).astype(np.uint8)[:reach]
    if at_start:
        levels[:reach] = fading
    if at_end:
        levels[size - reach :] = np.maximum(levels[size - reach :], fading[::-1])
    return levels
