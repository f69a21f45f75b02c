"""Pictures, masks and their files, as tests need them."""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SIZE = (70, 53)
"""Width and height that no stride divides."""


def photo(size: tuple[int, int] = SIZE, mode: str = "RGB") -> Image.Image:
    """Returns a picture in which no two neighbours are alike."""
    width, height = size
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 7 + columns, columns * 5 + rows, rows * columns], axis=-1) % 256
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def hole(size: tuple[int, int] = SIZE, mode: str = "L") -> Image.Image:
    """Returns a mask whose middle is white and whose rest is black."""
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rectangle([size[0] // 3, size[1] // 3, size[0] // 2, size[1] // 2], fill=255)
    return mask.convert(mode)


def written(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    """Returns the bytes of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def opened(data: bytes) -> np.ndarray:
    """Returns the pixels of a picture file."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)
