"""Pictures as callers have them → the files that are sent."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from PIL import Image

from sd_inpaint.errors import InvalidImageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]"
"""A path or a file's bytes, sent as they are; a Pillow picture or an array, sent as PNG.

Arrays: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); uint8, bool, or floats in [0, 1]. Of a Pillow picture, the pixels
count as they are in memory: its EXIF orientation turns nothing any more.
"""

_AS_THEY_ARE = ("1", "L", "LA", "RGB", "RGBA", "P")
"""Pillow's modes that a PNG holds in 8 bits."""


def file_of(picture: ImageInput, name: str) -> bytes:
    """Returns the file to send.

    Args:
        picture: What the caller gave.
        name: ``image`` or ``mask``, for messages.

    Raises:
        InvalidImageError: If an array has another shape or other values, or a Pillow picture levels without a white.
        TypeError: If it is none of these.
        OSError: If a path cannot be read.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, (str, os.PathLike)):
        return Path(picture).read_bytes()
    if isinstance(picture, Image.Image):
        return _png(picture)
    if hasattr(picture, "__array__"):
        return _png(Image.fromarray(_levels(picture, name)))
    raise TypeError(f"The {name} must be a path, bytes, a Pillow picture or an array, not {type(picture).__name__}.")


def _png(picture: Image.Image) -> bytes:
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I;16"):
        # The high byte, as the service reads files; Pillow would cut off at 255.
        samples = picture.tobytes()
        picture = Image.frombytes("L", picture.size, samples[0::2] if picture.mode == "I;16B" else samples[1::2])
    elif picture.mode in ("I", "F"):
        raise InvalidImageError(f"Pillow's mode {picture.mode} does not say which level is white: convert it to L.")
    if picture.mode not in _AS_THEY_ARE:
        picture = picture.convert("RGBA" if "A" in picture.mode or "a" in picture.mode else "RGB")
    buffer = io.BytesIO()
    # An EXIF orientation would turn pixels that the caller has as they are meant.
    picture.save(buffer, "PNG", compress_level=1, exif=b"", icc_profile=profile)
    return buffer.getvalue()


def _levels(array: "npt.NDArray[Any]", name: str) -> "npt.NDArray[np.uint8]":
    # Who has an array has NumPy.
    import numpy as np

    values = np.asarray(array)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))) or 0 in values.shape:
        raise InvalidImageError(f"The {name} must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), not {values.shape}.")
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(values.dtype, np.floating) and bool(((values >= 0) & (values <= 1)).all()):
        return (values * 255 + 0.5).astype(np.uint8)
    held = f"{values.dtype} from {values.min():g} to {values.max():g}"
    raise InvalidImageError(f"The {name} must be uint8, bool, or floats in [0, 1], not {held}.")
