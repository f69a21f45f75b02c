"""Files to upload: pictures of every format and mode, and some that no encoder would write."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from sd_inpaint.imaging import codecs
from sd_inpaint.picture import Picture, Pixels

ROOMY = 10_000_000
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def smooth(width: int = 70, height: int = 53) -> Image.Image:
    """A picture without noise, so that lossy formats keep it nearly, and without symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.dstack((x * 200 // width, y * 250 // height, (x + y) % 97)).astype(np.uint8))


def translucent() -> Image.Image:
    """``smooth`` with an alpha of all levels."""
    image = smooth()
    image.putalpha(Image.fromarray((np.arange(70 * 53) % 256).astype(np.uint8).reshape(53, 70)))
    return image


def saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """The file that Pillow writes of an image."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    """An EXIF block with this orientation and nothing else."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int,
    height: int,
    *,
    bits: int = 8,
    colour: int = 2,
    chunks: Sequence[tuple[bytes, bytes]] = (),
    raw: bytes = b"",
) -> bytes:
    """A PNG by hand: headers that no encoder would write, and bit depths that Pillow doesn't."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    body = b"".join(chunk(*part) for part in chunks) + chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def tiff(*tags: tuple[int, int]) -> bytes:
    """A one-pixel grey TIFF with these long tags beside the needed ones."""
    entries = sorted({256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 277: 1, **dict(tags)}.items())
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(80)


def cmyk_profile() -> bytes:
    """The smallest CMYK profile: a table that maps every ink mix to one mid-blue, which no plain formula gives."""
    lab = bytes((128, 128, 60)) * 16
    curves = bytes(range(256)) * 4
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table += curves + lab + bytes(range(256)) * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    offset = 128 + 4 + 2 * 12
    tags = struct.pack(">I4sII4sII", 2, b"A2B0", offset, len(table), b"wtpt", offset + len(table), len(white))
    header = struct.pack(
        ">I4sI4s4s4s", offset + len(table) + len(white), bytes(4), 0x02400000, b"prtr", b"CMYK", b"Lab "
    )
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return header + tags + table + white


def decode(data: bytes, **options: Any) -> Picture:
    """``decode_image`` with a bound that is not in the way."""
    return codecs.decode_image(data, **{"max_pixels": ROOMY} | options)


def decode_mask(data: bytes, **options: Any) -> Pixels:
    """``decode_mask`` with a bound that is not in the way."""
    return codecs.decode_mask(data, **{"max_pixels": ROOMY} | options)


def seen(data: bytes) -> Pixels:
    """What Pillow itself shows."""
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


FORMATS_AND_MODES = [
    (image_format, mode)
    for image_format, modes in {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
        "JPEG": ("L", "RGB", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
        "AVIF": ("L", "RGB", "RGBA"),
        "GIF": ("L", "P"),
        "BMP": ("1", "L", "P", "RGB"),
        "TIFF": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"),
        "HEIF": ("L", "RGB", "RGBA"),
    }.items()
    for mode in modes
]
WITH_EXIF = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "HEIF")
SAMPLES = {name: saved(smooth(), name) for name in codecs.FORMATS}
