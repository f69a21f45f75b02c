"""What decoding a file may cost, from its headers: files with few pixels that take long are refused before they do.

Nothing here reads a pixel. What these bounds let through is bounded by CPU time (:mod:`sd_inpaint.work.worker`).
"""

from typing import Final

from PIL import Image, TiffImagePlugin

MAX_SIDE: Final = 65_535
"""Largest width or height, in pixels: no format but PNG, BMP and TIFF can hold more, so no other could hold the result.

A longer picture has next to no width within ``max_pixels``, and costs many times what its pixels do: by row.
"""

_MAX_JPEG_SCANS: Final = 100
"""Each scan of a progressive JPEG walks the whole picture again; encoders write about ten."""

_MAX_RLE_PIXELS: Final = 4_000_000
"""Pillow unpacks run-length BMP in Python: up to 0.6 s for so many pixels. Screenshots, their only use, have fewer."""

_MAX_TIFF_PIECES: Final = 300_000
"""Strips or tiles: one for each row of the longest picture, in each of four planes."""

_MAX_PNG_CHUNKS: Final = 200_000
"""A 100 MB file has a tenth as many: encoders write 8 KiB in each at least."""

_MAX_PNG_METADATA: Final = 1_000
"""Chunks that are not pixels."""

_MAX_PNG_COMPRESSED: Final = 64
"""Compressed profiles and texts: each may unpack to megabytes."""

_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

_BMP_RUN_LENGTH: Final = (1, 2)
"""Values of biCompression: BI_RLE8, BI_RLE4."""

_TILE_WIDTH, _TILE_LENGTH, _STRIP_OFFSETS, _TILE_OFFSETS = 322, 323, 273, 324


def problem_of_file(data: bytes) -> str | None:
    """Looks at a file that has not been opened, since some take long to open.

    Returns:
        What is wrong with it, as the end of the sentence "The image is a …"; None if it may be opened.
    """
    if not data.startswith(_PNG_SIGNATURE):
        return None
    chunks = metadata = compressed = 0
    position = len(_PNG_SIGNATURE)
    while position + 8 <= len(data):
        kind = data[position + 4 : position + 8]
        position += 12 + int.from_bytes(data[position : position + 4], "big")
        chunks += 1
        metadata += kind != b"IDAT"
        compressed += kind in (b"iCCP", b"zTXt", b"iTXt")
        if compressed > _MAX_PNG_COMPRESSED:
            return f"PNG with more than {_MAX_PNG_COMPRESSED} compressed profiles and texts"
        if metadata > _MAX_PNG_METADATA or chunks > _MAX_PNG_CHUNKS:
            return f"PNG with more than {_MAX_PNG_METADATA} chunks of metadata or {_MAX_PNG_CHUNKS} in all"
    return None


def problem_of_scans(scans: int) -> str | None:
    """Looks at the number of a JPEG's scans; returns as :func:`problem_of_file` does."""
    return f"JPEG with more than {_MAX_JPEG_SCANS} scans" if scans > _MAX_JPEG_SCANS else None


def declared_size(data: bytes) -> tuple[int, int] | None:
    """Returns the (width, height) of a format whose decoder allocates them when it opens the file, else None."""
    # Source: RFC 9649, 2.7: 24 bits each, less 1, from byte 24 on.
    if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    return None


def problem_of_picture(source: Image.Image, data: bytes, max_pixels: int) -> str | None:
    """Looks at a picture that has been opened and not decoded; returns as :func:`problem_of_file` does."""
    if source.format in ("JPEG", "MPO"):
        return _problem_of_jpeg(source, data)
    if isinstance(source, TiffImagePlugin.TiffImageFile):
        return _problem_of_tiff(source, max_pixels)
    pixels = source.width * source.height
    if source.format == "BMP" and source.info.get("compression") in _BMP_RUN_LENGTH and pixels > _MAX_RLE_PIXELS:
        return f"run-length encoded BMP of more than {_MAX_RLE_PIXELS} pixels"
    return None


def _problem_of_jpeg(source: Image.Image, data: bytes) -> str | None:
    # Huffman codes have at least one bit, and each block of 8×8 at least one code. A decoder fills up with grey.
    blocks = -(-source.width // 8) * -(-source.height // 8)
    if len(data) * 8 < blocks and not any(marker in data for marker in (b"\xff\xc9", b"\xff\xca")):
        return "JPEG whose data are too short for its size"
    return None


def _problem_of_tiff(source: TiffImagePlugin.TiffImageFile, max_pixels: int) -> str | None:
    tags = source.tag_v2
    width, height = tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1)
    if int(width) * int(height) > max_pixels:
        return f"TIFF with tiles of {width}x{height} pixels, which is too large"
    for tag in (_STRIP_OFFSETS, _TILE_OFFSETS):
        offsets = tags.get(tag, ())
        if isinstance(offsets, tuple) and len(offsets) > _MAX_TIFF_PIECES:
            return f"TIFF with more than {_MAX_TIFF_PIECES} strips or tiles"
    return None
