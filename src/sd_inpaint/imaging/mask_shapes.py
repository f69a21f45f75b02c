"""Masks made of shapes, colours and differences. Each is (H, W) uint8: 255 repaints, 0 keeps."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from sd_inpaint.imaging import colours
from sd_inpaint.imaging.codecs import encode
from sd_inpaint.picture import Picture, Pixels


def box(size: tuple[int, int], corners: tuple[float, float, float, float]) -> Pixels:
    """A rectangle.

    Args:
        size: (width, height) of the mask.
        corners: left, top, right, bottom in pixels; a pixel is white if its centre is inside.
    """
    width, height = size
    left, top, right, bottom = corners
    mask = np.zeros((height, width), np.uint8)
    columns, rows = _inside(left, right, width), _inside(top, bottom, height)
    mask[rows, columns] = 255
    return mask


def ellipse(size: tuple[int, int], corners: tuple[float, float, float, float]) -> Pixels:
    """The ellipse that fits into a rectangle; arguments as for :func:`box`."""
    width, height = size
    left, top, right, bottom = corners
    mask = np.zeros((height, width), np.uint8)
    columns, rows = _inside(left, right, width), _inside(top, bottom, height)
    x = (np.arange(width)[columns] + 0.5 - (left + right) / 2) / max((right - left) / 2, 1e-9)
    y = (np.arange(height)[rows] + 0.5 - (top + bottom) / 2) / max((bottom - top) / 2, 1e-9)
    mask[rows, columns] = np.where(x[None, :] ** 2 + y[:, None] ** 2 <= 1, np.uint8(255), np.uint8(0))
    return mask


def polygon(size: tuple[int, int], points: Sequence[tuple[float, float]]) -> Pixels:
    """A polygon, closed by itself; where its sides cross, every second part is inside.

    Args:
        size: (width, height) of the mask.
        points: At least three, (x, y) in pixels from the picture's upper left corner.
    """
    width, height = size
    mask = np.zeros((height, width), np.uint8)
    # OpenCV counts from the centre of the first pixel, in fractions of 2**-shift.
    shift = 4
    corners = np.round((np.asarray(points, dtype=np.float64) - 0.5) * (1 << shift)).astype(np.int32)
    cv2.fillPoly(mask, [corners], 255, lineType=cv2.LINE_8, shift=shift)
    return mask


def transparent(picture: Picture) -> Pixels:
    """What of a picture is transparent, in proportion."""
    if picture.alpha is None:
        return np.zeros((picture.height, picture.width), np.uint8)
    return np.asarray(255 - picture.alpha, dtype=np.uint8)


def near_colour(picture: Picture, colour: tuple[int, int, int], tolerance: int) -> Pixels:
    """What of a picture has a colour.

    Args:
        picture: The picture.
        colour: In sRGB.
        tolerance: Levels by which each channel may differ.
    """
    return _within(colours.to_srgb(picture.rgb, picture.icc_profile), np.array(colour, np.uint8), tolerance)


def difference(picture: Picture, other: Picture, tolerance: int) -> Pixels:
    """Where two pictures of one size differ by more than ``tolerance`` levels in a channel, or in opacity."""
    ours, theirs = (colours.to_srgb(each.rgb, each.icc_profile) for each in (picture, other))
    mask = 255 - _within(ours, theirs, tolerance)
    if picture.alpha is not None or other.alpha is not None:
        one, two = (
            np.full((each.height, each.width), 255, np.uint8) if each.alpha is None else each.alpha
            for each in (picture, other)
        )
        mask = np.maximum(mask, 255 - _within(one[:, :, None], two[:, :, None], tolerance))
    return np.asarray(mask, dtype=np.uint8)


def encode_mask(mask: Pixels) -> bytes:
    """Writes a mask as PNG."""
    return encode(Picture(np.ascontiguousarray(np.repeat(mask[:, :, None], 3, axis=2))))


def _within(rgb: Pixels, others: Pixels, tolerance: int) -> Pixels:
    distance = np.maximum(rgb, others) - np.minimum(rgb, others)
    return np.where(distance.max(axis=2) <= tolerance, np.uint8(255), np.uint8(0))


def _inside(low: float, high: float, size: int) -> slice:
    """The pixels of a row whose centres lie in [low, high)."""
    start, end = (min(max(math.ceil(side - 0.5), 0), size) for side in (low, high))
    return slice(start, max(start, end))
