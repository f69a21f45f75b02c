"""Files that are small and cost much: what attacks on the decoder are made of."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.support.pictures import written

FOR_EVER = range(10**15)
"""What ``sum`` takes months for."""


def run_length_bmp(width: int, height: int) -> bytes:
    """A run-length encoded BMP whose every row is one pixel and an end-of-line code: the rest is filled in Python."""
    rows = b"\1\5\0\0" * height + b"\0\1"
    offset = 14 + 40 + 4 * 256
    head = struct.pack("<2sIHHI", b"BM", offset + len(rows), 0, 0, offset)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 256)
    return head + info + bytes(4 * 256) + rows


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_profiles(count: int, size: int = 4_000_000) -> bytes:
    """A small PNG with many compressed colour profiles, each of so many zeros."""
    plain = written(Image.new("RGB", (70, 53)))
    profile = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(size)))
    return plain[:33] + profile * count + plain[33:]


def png_of_one_colour(width: int, height: int, channels: int = 3) -> bytes:
    """A PNG of black pixels, written row by row: some hundred kilobytes, however large it is."""
    colour = {1: 0, 3: 2, 4: 6}[channels]
    pack = zlib.compressobj(9)
    row = bytes(1 + width * channels)
    data = b"".join(_packed(pack, row, height))
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(kind, body) for kind, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def _packed(pack: "zlib._Compress", row: bytes, height: int) -> Iterator[bytes]:
    for _ in range(height):
        yield pack.compress(row)
    yield pack.flush()


def tiff_of_strips(height: int) -> bytes:
    """A TIFF of one column with a strip for each row."""
    buffer = io.BytesIO()
    Image.new("L", (1, height)).save(buffer, "TIFF", compression="tiff_lzw", tiffinfo={278: 1})
    return buffer.getvalue()


def jpeg_that_lies(width: int, height: int) -> bytes:
    """A JPEG of 16×16 pixels whose header claims more."""
    data = bytearray(written(Image.fromarray(np.full((16, 16, 3), 90, np.uint8)), "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)
