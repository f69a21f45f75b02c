"""The samples of a decoded image: any of Pillow's modes → 8-bit RGB with alpha, or one grey level.

The images are Pillow's, decoded whole. Any number of threads may call these functions at once.
"""

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, TiffImagePlugin

from sd_inpaint.picture import Pixels

MAX_PROFILE_BYTES: Final = 4 * 1024 * 1024
"""Largest ICC profile that is carried; the largest RGB profiles in use have about one megabyte."""

_PROFILE_ERRORS: Final = (ImageCms.PyCMSError, OSError, ValueError, TypeError)

_WHITES: Final = (1.0, 2.0**8 - 1, 2.0**16 - 1, 2.0**32 - 1)
"""Possible values of white in files of 32-bit integers or floats, which do not say."""


def channels(image: Image.Image, profile: bytes | None = None) -> tuple[Pixels, Pixels | None]:
    """The colours and the opacity of an image.

    Args:
        image: Of any mode that Pillow's readers give.
        profile: By which CMYK is converted; None converts it plainly.

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
        return np.array(_cmyk_to_srgb(image, profile)), None
    if image.has_transparency_data:
        rgba = np.array(image.convert("RGBA"))
        rgb, alpha = np.ascontiguousarray(rgba[:, :, :3]), np.ascontiguousarray(rgba[:, :, 3])
        return rgb, None if _is_undeclared(image) and not alpha.any() else alpha
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
    rgb, alpha = channels(image)
    grey = np.array(Image.fromarray(rgb).convert("L"))
    if alpha is None:
        return grey
    return ((grey.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)


def to_srgb(pixels: Pixels, profile: bytes | None) -> Pixels:
    """Converts RGB values of a profile to those of sRGB, in which the model works.

    Args:
        pixels: (H, W, 3) uint8.
        profile: A profile of RGB, or of grey for values that are equal; None is sRGB.

    Returns:
        (H, W, 3) uint8; ``pixels`` itself where the profile is sRGB, or none that can be used.
    """
    transforms = None if profile is None else _transforms(profile)
    if transforms is None:
        return pixels
    if transforms.to_srgb.input_mode == "L":
        pixels = np.ascontiguousarray(pixels[:, :, 0])
    return np.array(transforms.to_srgb.apply(Image.fromarray(pixels)))


def from_srgb(pixels: Pixels, profile: bytes | None) -> Pixels:
    """The way back of :func:`to_srgb`, for profiles that :func:`is_carried` holds for."""
    transforms = None if profile is None else _transforms(profile)
    if transforms is None or transforms.from_srgb is None:
        return pixels
    return np.array(transforms.from_srgb.apply(Image.fromarray(pixels)))


def is_carried(profile: bytes) -> bool:
    """Whether a picture can keep its values and this profile: what is painted must be converted to it."""
    transforms = _transforms(profile)
    return len(profile) <= MAX_PROFILE_BYTES and (transforms is not None and transforms.from_srgb is not None)


@dataclass(frozen=True, slots=True)
class _Transforms:
    to_srgb: ImageCms.ImageCmsTransform
    from_srgb: ImageCms.ImageCmsTransform | None


@lru_cache(maxsize=8)
def _transforms(profile: bytes) -> _Transforms | None:
    """The transforms of a profile; None for one that is none."""
    srgb = ImageCms.createProfile("sRGB")
    mode = "L" if profile[16:20] == b"GRAY" else "RGB"
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        forth = ImageCms.buildTransform(own, srgb, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
    except _PROFILE_ERRORS:
        return None
    try:
        back = ImageCms.buildTransform(srgb, own, "RGB", "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
    except _PROFILE_ERRORS:
        # Profiles of scanners have one direction only.
        back = None
    return _Transforms(forth, back)


def _is_undeclared(image: Image.Image) -> bool:
    """Whether nothing says that the fourth sample is opacity: Windows' clipboard leaves it at 0 throughout."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return not image.tag_v2.get(TiffImagePlugin.EXTRASAMPLES)
    return image.format == "BMP"


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
    except _PROFILE_ERRORS:
        # Viewers that meet a damaged profile, or one for another colour space, show the picture as if it had none.
        return image.convert("RGB")
    return transform.apply(image)
