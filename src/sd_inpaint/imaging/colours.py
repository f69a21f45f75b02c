"""The samples of a decoded image: any of Pillow's modes → 8-bit RGB with alpha, or one grey level.

The images are Pillow's, decoded whole. Any number of threads may call these functions at once.
"""

import io
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from sd_inpaint.picture import Pixels

MAX_PROFILE_BYTES: Final = 4 * 1024 * 1024
"""Largest ICC profile that is carried; the largest RGB profiles in use have about one megabyte."""

_WHITES: Final = (1.0, 2.0**8 - 1, 2.0**16 - 1, 2.0**32 - 1)
"""Possible values of white in files of 32-bit integers or floats, which do not say."""


def channels(image: Image.Image, *, use_profile: bool = True) -> tuple[Pixels, Pixels | None]:
    """The colours and the opacity of an image.

    Args:
        image: Of any mode that Pillow's readers give.
        use_profile: Whether CMYK is converted by the image's own profile, where it has one.

    Returns:
        (H, W, 3) uint8 RGB, and (H, W) uint8 alpha or None; both own, writable and C-contiguous. CMYK and LAB become
        sRGB. Of all other modes the values are those of the file; of 16 bits the high byte.

    Raises:
        ValueError: If the samples can't be levels of colour: negative, infinite or NaN.
    """
    if image.mode.startswith("I") or image.mode == "F":
        grey, alpha = _deep_grey(image)
        return np.repeat(grey[:, :, None], 3, axis=2), alpha
    if image.mode == "LAB":
        return np.array(_lab_to_srgb(image)), None
    if image.mode == "CMYK":
        return np.array(_cmyk_to_srgb(image, image.info.get("icc_profile") if use_profile else None)), None
    if image.has_transparency_data:
        rgba = np.array(image.convert("RGBA"))
        return np.ascontiguousarray(rgba[:, :, :3]), np.ascontiguousarray(rgba[:, :, 3])
    return np.array(image.convert("RGB")), None


def luminance(image: Image.Image) -> Pixels:
    """The grey level of an image over black: its luma times its alpha.

    Returns:
        (H, W) uint8, own and writable; white is exactly 255 and black exactly 0 in every mode.

    Raises:
        ValueError: If the samples can't be levels of colour: negative, infinite or NaN.
    """
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return np.array(image.convert("L"))
    if image.mode == "LAB":
        return np.array(image.getchannel("L"))
    # A profile's paper white is not quite 255, and would leave a trace of the original in every hole.
    rgb, alpha = channels(image, use_profile=False)
    grey = np.array(Image.fromarray(rgb).convert("L"))
    if alpha is None:
        return grey
    return ((grey.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)


def rgb_profile(image: Image.Image) -> bytes | None:
    """The image's ICC profile, where it is one that describes what ``channels`` gives; else None."""
    profile = image.info.get("icc_profile")
    if image.mode in ("CMYK", "LAB") or not isinstance(profile, bytes):
        return None
    if not 128 <= len(profile) <= MAX_PROFILE_BYTES:
        return None
    # Source: ICC.1:2022, 7.2: colour space at byte 16, file signature at byte 36.
    return profile if profile[16:20] == b"RGB " and profile[36:40] == b"acsp" else None


def _deep_grey(image: Image.Image) -> tuple[Pixels, Pixels | None]:
    """Samples of 16 or 32 bits, or floats → (H, W) uint8, and alpha where one level was declared transparent.

    16 bits have one meaning. For the others, white is the smallest of ``_WHITES`` that no sample exceeds.
    """
    samples: npt.NDArray[Any] = np.asarray(image)
    key = image.info.get("transparency")
    alpha = np.where(samples == key, np.uint8(0), np.uint8(255)) if isinstance(key, int) else None
    if samples.dtype.itemsize == 2:
        return (samples >> 8).astype(np.uint8), alpha
    low, high = float(samples.min()), float(samples.max())
    whites = _WHITES if samples.dtype.kind == "f" else _WHITES[1:]
    white = next((w for w in whites if high <= w), None)
    if white is None or not low >= 0.0:
        raise ValueError(f"samples from {low} to {high} are not grey levels")
    return (samples.astype(np.float64) * (255.0 / white) + 0.5).astype(np.uint8), alpha


def _lab_to_srgb(image: Image.Image) -> Image.Image:
    srgb = ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), srgb, "LAB", "RGB").apply(image)


def _cmyk_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if not profile:
        return image.convert("RGB")
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            "CMYK",
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        # Viewers that meet a damaged profile, or one for another colour space, show the picture as if it had none.
        return image.convert("RGB")
    return transform.apply(image)
