"""An uploaded image and its mask, decoded and held against each other."""

import hashlib
from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np

from sd_inpaint.errors import InvalidMaskError, SizeMismatchError
from sd_inpaint.imaging import codecs, masks
from sd_inpaint.picture import Picture, Pixels
from sd_inpaint.schema import InpaintParameters, InpaintRequest

ReadMask: TypeAlias = Callable[[bytes | None, Picture, int], Pixels]
"""Mask file or None, its image, largest number of pixels → (H, W) uint8, 255 repaint, 0 keep."""


_OPAQUE: Final = 128
"""Above this level, alpha is opaque. Source: the web UI's rule for masks that have an alpha channel."""


def read_luminance(file: bytes | None, image: Picture, max_pixels: int) -> Pixels:
    """Reads a mask in black and white; without one, everything is repainted."""
    if file is None:
        return np.full((image.height, image.width), 255, np.uint8)
    return codecs.decode_mask(file, max_pixels=max_pixels)


def read_transparency(file: bytes | None, image: Picture, max_pixels: int) -> Pixels:
    """Reads a mask whose transparent part is repainted, in proportion; without one, the image's own transparency.

    Raises:
        InvalidMaskError: If nothing of the picture can be seen to be transparent, with an alpha channel or without.
    """
    if file is None:
        mask = _transparency(image.alpha)
        if mask is None:
            raise InvalidMaskError("Without a mask, the image itself must be transparent where it is to be repainted.")
        return mask
    mask = _transparency(codecs.decode_mask_alpha(file, max_pixels=max_pixels))
    if mask is None:
        raise InvalidMaskError(
            "The mask has no transparency: in this dialect the transparent part is repainted. "
            "POST /sd-inpaint/inpaint accepts black-and-white masks."
        )
    return mask


def _transparency(alpha: Pixels | None) -> Pixels | None:
    """255 where transparent; None where nothing can be seen to be, as in a canvas that nobody erased from."""
    if alpha is None or not masks.visible(255 - alpha).any():
        return None
    return 255 - alpha


def read_opacity(file: bytes | None, image: Picture, max_pixels: int, *, rounds: bool = True) -> Pixels:
    """Reads a mask as AUTOMATIC1111's web UI does: opaque pixels are repainted, or the white ones if all are opaque.

    Args:
        file: The mask's file; None repaints everything.
        image: Its image.
        max_pixels: Largest width times height.
        rounds: Whether opacity counts as all, from just above the middle on, or nothing.
    """
    alpha = None if file is None else codecs.decode_mask_alpha(file, max_pixels=max_pixels)
    if alpha is None or bool((alpha == 255).all()):
        return read_luminance(file, image, max_pixels)
    return np.where(alpha > _OPAQUE, np.uint8(255), np.uint8(0)) if rounds else alpha


def decode_pair(
    image: bytes,
    mask: bytes | None,
    parameters: InpaintParameters,
    *,
    max_pixels: int,
    read_mask: ReadMask = read_luminance,
) -> InpaintRequest:
    """Decodes what a caller sent. Takes as long as the pictures are large.

    Args:
        image: The uploaded file.
        mask: The uploaded file; None where there is none.
        parameters: What was asked beside the files.
        max_pixels: Largest width times height of either, checked before pixels are decoded.
        read_mask: What the mask's pixels mean.

    Raises:
        InvalidImageError, InvalidMaskError, ImageTooLargeError: As :mod:`sd_inpaint.imaging.codecs` raises them.
        SizeMismatchError: If the two differ in size.
    """
    picture = codecs.decode_image(image, max_pixels=max_pixels, keep_exif=parameters.keep_exif)
    pixels = read_mask(mask, picture, max_pixels)
    check_same_size(picture, pixels)
    # A mask that was read otherwise is another mask.
    mask_sha256 = "" if mask is None or read_mask is not read_luminance else hashlib.sha256(mask).hexdigest()
    return InpaintRequest(picture, pixels, parameters, hashlib.sha256(image).hexdigest(), mask_sha256)


def check_same_size(image: Picture, mask: Pixels) -> None:
    """Checks that image and mask, both as they are seen, have the same width and height.

    Raises:
        SizeMismatchError: If they have not; it names both sizes.
    """
    mask_size = (int(mask.shape[1]), int(mask.shape[0]))
    if mask_size == image.size:
        return
    turned = (
        " Width and height seem swapped: JPEG and PNG are turned by their EXIF orientation first."
        if mask_size == image.size[::-1]
        else ""
    )
    raise SizeMismatchError(
        f"The mask is {mask_size[0]}x{mask_size[1]} pixels and the image {image.width}x{image.height}: "
        f"resize the mask to the image's size.{turned}",
        image_size=list(image.size),
        mask_size=list(mask_size),
    )
