"""Which mask a picture is painted with: one for all, one of the same name, or the picture's own transparency."""

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from sd_inpaint.cli.outputs import is_picture
from sd_inpaint.errors import InvalidMaskError

ALPHA: Final = "alpha"
"""Stands for the picture's own transparency."""

ReadMaskFile: TypeAlias = Callable[[Path, bytes], bytes]
"""A picture's path and file → its mask's file."""


def mask_source(given: str) -> ReadMaskFile:
    """Returns what finds masks.

    Args:
        given: ``alpha``, a file, or a folder with a mask for each picture: of the same name, but for its end.

    Raises:
        OSError: If the file cannot be read.
    """
    if not given.strip():
        raise InvalidMaskError("The mask is named by nothing: name a file, a folder, or alpha.")
    if given == ALPHA:
        return lambda _, image: transparency_of(image)
    if Path(given).is_dir():
        masks = _by_stem(Path(given))
        return lambda picture, _: _one_of(masks.get(_same_letters(picture.stem), []), picture, Path(given)).read_bytes()
    mask = Path(given).read_bytes()
    return lambda *_: mask


def transparency_of(image: bytes) -> bytes:
    """Makes a mask of a picture's transparency: what is transparent becomes white.

    Raises:
        InvalidMaskError: If nothing of it is.
    """
    from sd_inpaint.imaging import codecs
    from sd_inpaint.imaging.mask_shapes import encode_mask
    from sd_inpaint.imaging.pair import read_transparency
    from sd_inpaint.settings import Settings

    max_pixels = Settings.read().max_pixels
    return encode_mask(read_transparency(None, codecs.decode_image(image, max_pixels=max_pixels), max_pixels))


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    masks: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if is_picture(path):
            masks.setdefault(_same_letters(path.stem), []).append(path)
    return masks


def _same_letters(stem: str) -> str:
    """A name as it is seen: macOS takes an accent apart from its letter."""
    return unicodedata.normalize("NFC", stem)


def _one_of(masks: list[Path], picture: Path, folder: Path) -> Path:
    if len(masks) == 1:
        return masks[0]
    names = ", ".join(mask.name for mask in masks)
    raise InvalidMaskError(
        f"{picture.name} has several masks in {folder}: {names}."
        if masks
        else f"{picture.name} has no mask in {folder}: a picture named {picture.stem}."
    )
