"""A picture's EXIF data: which way up the picture is, and what a result carries on."""

import struct
from typing import Final

from PIL import Image, TiffImagePlugin

MAX_BYTES: Final = 65_533
"""Of EXIF data that is carried on: what a JPEG's segment holds."""

_ORIENTATION: Final = 0x0112

_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
"""What Pillow raises for damaged EXIF, which viewers overlook."""

_TRANSPOSITIONS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation → the operation that turns the picture upright. Source: EXIF 2.32, tag 0x0112."""


def read(image: Image.Image) -> Image.Exif:
    """The image's own EXIF data, without what Pillow adds from XMP; empty where there is none that is readable."""
    exif = Image.Exif()
    try:
        block = image.info.get("exif")
        if isinstance(block, bytes):
            exif.load(block)
        elif isinstance(image, TiffImagePlugin.TiffImageFile):
            return image.getexif()
    except _ERRORS:
        return Image.Exif()
    return exif


def read_group(exif: Image.Exif, pointer: int) -> dict[int, object]:
    """The tags that another tag points to; none where they are damaged."""
    try:
        return dict(exif.get_ifd(pointer))
    except _ERRORS:
        return {}


def upright(image: Image.Image) -> Image.Image:
    """Turns an image as Chromium shows it, whose users paint masks over what they see.

    JPEG and PNG turn by EXIF. AVIF and HEIF turn by their own boxes, and TIFF by its own tag, which their readers have
    done or put into EXIF. WebP is not turned, and no format by XMP. Pillow's ``exif_transpose`` does turn by XMP.
    """
    if image.format == "WEBP":
        return image
    method = _TRANSPOSITIONS.get(_orientation(read(image)))
    return image if method is None else image.transpose(method)


def carried(image: Image.Image) -> bytes | None:
    """The EXIF data without the orientation, for a result that is upright; None if there is none, or too much."""
    try:
        exif = read(image)
        exif.pop(_ORIENTATION, None)
        written = exif.tobytes() if exif else b""
    except _ERRORS:
        return None
    return written if 0 < len(written) <= MAX_BYTES else None


def _orientation(exif: Image.Exif) -> int:
    try:
        value = exif.get(_ORIENTATION, 1)
    except _ERRORS:
        return 1
    return value if isinstance(value, int) else 1
