"""A small picture of an uploaded one, as the service sees it: for pages whose browser cannot show the file."""

from typing import Final

import numpy as np
from PIL import Image

from sd_inpaint.imaging import codecs, colours
from sd_inpaint.picture import Picture

LONGEST_SIDE: Final = 2048
"""Pixels: more than a page shows, and as much as its mask is drawn with."""


def render_preview(data: bytes, *, max_pixels: int) -> tuple[bytes, tuple[int, int]]:
    """Shows an uploaded picture upright, in sRGB, and no larger than ``LONGEST_SIDE``.

    Args:
        data: The file.
        max_pixels: Largest width times height, checked before pixels are decoded.

    Returns:
        A PNG file, and (width, height) of the picture itself.

    Raises:
        InvalidImageError, ImageTooLargeError: As :func:`~sd_inpaint.imaging.codecs.decode_image` raises them.
    """
    picture = codecs.decode_image(data, max_pixels=max_pixels)
    shown = _shrunk(Picture(colours.to_srgb(picture.rgb, picture.icc_profile), picture.alpha))
    return codecs.encode(shown), picture.size


def _shrunk(picture: Picture) -> Picture:
    scale = LONGEST_SIDE / max(picture.size)
    if scale >= 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in picture.size)
    channels = picture.rgb if picture.alpha is None else np.dstack((picture.rgb, picture.alpha))
    small = np.array(Image.fromarray(channels).resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0))
    alpha = None if picture.alpha is None else np.ascontiguousarray(small[:, :, 3])
    return Picture(np.ascontiguousarray(small[:, :, :3]), alpha)
