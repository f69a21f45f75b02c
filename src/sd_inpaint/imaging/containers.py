"""What of a file is the picture: chunks of a PNG, segments of a JPEG, chunks of a WebP.

Phones append films to pictures, programs write texts with wrong checksums, transfers lose the last bytes. None of that
is a pixel, and browsers show such pictures. So decoders get a file made of the coded picture and of what describes it,
and nothing else. Damage in the coded picture itself is an error.

Any number of threads may call these functions at once.
"""

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"

_PNG_COLOURS: Final = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")
"""Chunks that say what a PNG's colours are. Source: PNG (Third Edition), 4.3."""

_PNG_KEPT: Final = (b"IHDR", b"PLTE", b"tRNS", b"eXIf")
"""Chunks of a PNG, beside its coded pixels, that its decoder gets."""

_PNG_PIXELS: Final = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
"""Chunks of a PNG without which its pixels are others."""

_WEBP_PIXELS: Final = (b"VP8 ", b"VP8L", b"ANMF")
_WEBP_KEPT: Final = (*_WEBP_PIXELS, b"VP8X", b"ALPH", b"ANIM", b"ICCP", b"EXIF")

_JPEG_END: Final = b"\xff\xd9"

_JPEG_MARKER: Final = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
"""The next marker in coded data, where FF is followed by 00 or is one of the restart markers."""

_JPEG_KEPT: Final = {0xE0: b"", 0xE1: b"Exif\0\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}
"""Application segments that are kept, and how they begin."""

_JPEG_FRAMES: Final = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
"""Markers of a frame's head, which says how it is coded and of how many components."""

_JPEG_TABLES: Final = (0xC4, 0xCC, 0xDB, 0xDC, 0xDD)

_JPEG_SEQUENTIAL: Final = (b"\xc0", b"\xc1")
"""Frames that are coded by Huffman's method and, if in one scan, row by row."""

_JPEG_PADDING: Final = b"\xff\x00" * 8
"""Stands behind the coded data: libjpeg reads up to eight bytes ahead, and by no table are sixteen ones a code."""

_JPEG_FILLERS: Final = (b"\x00" * 16, b"\x5a" * 16)
"""Two ways to continue coded data that ends too early; where nothing is missing, neither is looked at."""


@dataclass(frozen=True, slots=True)
class CodedPicture:
    """A file without all that is beside its picture.

    Attributes:
        data: What a decoder gets.
        scans: How many scans a JPEG has; 0 for other files.
        other: For a JPEG that may lack its last rows, the same file with another end: other pixels say that it does.
        png_colours: The chunks of a PNG that say what its colours are, by their types.
    """

    data: bytes
    scans: int = 0
    other: bytes | None = None
    png_colours: Mapping[bytes, bytes] = field(default_factory=dict)


def coded_picture(data: bytes) -> CodedPicture:
    """Takes out of a file what is not its picture; files of other formats than these three stay as they are.

    Raises:
        ValueError: If coded pixels are damaged, by their own checksum.
    """
    if data.startswith(_PNG):
        return _coded_png(data)
    if data.startswith(_JPEG):
        return _coded_jpeg(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return CodedPicture(_coded_webp(data))
    return CodedPicture(data)


def without_avif_exif(data: bytes) -> bytes:
    """An AVIF whose EXIF is not found: libavif refuses pictures whose EXIF does not begin as it should."""
    # Source: ISO/IEC 14496-12, 8.11.6: an item's entry is a box with a version, an id and a position, then its type.
    return re.sub(rb"(infe[\x02\x03]...(?:..|....)..)Exif", rb"\1free", data, flags=re.DOTALL)


def _coded_png(data: bytes) -> CodedPicture:
    kept: list[bytes] = []
    pixels: list[bytes] = []
    colours: dict[bytes, bytes] = {}
    for kind, content, is_intact in _png_chunks(data):
        if not is_intact and kind in _PNG_PIXELS:
            raise ValueError(f"wrong checksum in {kind.decode()}")
        if kind == b"IDAT":
            pixels.append(content)
        # Browsers read nothing that follows the pixels.
        elif is_intact and not pixels:
            if kind in _PNG_COLOURS:
                colours.setdefault(kind, content)
            elif kind in _PNG_KEPT:
                kept.append(_png_chunk(kind, content))
    parts = [_PNG, *kept, _png_chunk(b"IDAT", b"".join(pixels)), _png_chunk(b"IEND", b"")]
    return CodedPicture(b"".join(parts), png_colours=colours)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Type, content and whether the checksum is right; what a transfer cut off is taken as right, and as short."""
    at = len(_PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if not kind.isalpha():
            return
        content, checksum = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        is_right = len(checksum) < 4 or zlib.crc32(content, zlib.crc32(kind)) == int.from_bytes(checksum)
        if kind == b"IEND" or (len(checksum) < 4 and kind != b"IDAT"):
            return
        yield kind, content, is_right
        at += 12 + length


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return b"".join((len(content).to_bytes(4), kind, content, checksum.to_bytes(4)))


def _coded_webp(data: bytes) -> bytes:
    end = 8 + int.from_bytes(data[4:8], "little")
    at, has_pixels, parts = 12, False, [b"WEBP"]
    # The length in the head may be wrong; what the chunks say is what decoders need.
    while at + 8 <= len(data) and (at < end or not has_pixels):
        kind, length = struct.unpack_from("<4sI", data, at)
        after = at + 8 + length + length % 2
        is_whole = at + 8 + length <= len(data)
        if kind in _WEBP_PIXELS or (kind in _WEBP_KEPT and is_whole):
            # The last chunk of a file may lack the byte that makes its length even.
            parts.append(data[at:after] + b"\0" * (is_whole and after > len(data)))
            has_pixels = has_pixels or kind in _WEBP_PIXELS
        at = after
    body = b"".join(parts)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _coded_jpeg(data: bytes) -> CodedPicture:
    parts, scans, frame, at = [data[:2]], 0, b"", 2
    while (found := _JPEG_MARKER.search(data, at)) is not None:
        marker, start = data[found.end() - 1], found.end() - 2
        if marker == 0xD9 or (marker == 0xD8 and scans):
            break
        segment = data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4])]
        at = start + max(len(segment), 2)
        if marker != 0xDA:
            if marker in _JPEG_FRAMES:
                frame = segment
            if _is_jpeg_part(marker, segment):
                parts.append(segment)
            continue
        scans += 1
        coded_end = _JPEG_MARKER.search(data, at)
        at = len(data) if coded_end is None else coded_end.start()
        parts.append(data[start:at])
        if frame[1:2] in _JPEG_SEQUENTIAL and frame[9:10] == segment[4:5]:
            # All in one scan, row by row: without the end marker libjpeg asks for the rows that are missing, instead of
            # making them up.
            return CodedPicture(b"".join(parts) + _JPEG_PADDING, scans)
    coded = b"".join(parts)
    if found is not None and found[0].endswith(b"\xd9"):
        return CodedPicture(coded + _JPEG_END, scans)
    one, other = (coded + filler + _JPEG_END for filler in _JPEG_FILLERS)
    return CodedPicture(one, scans, other)


def _is_jpeg_part(marker: int, segment: bytes) -> bool:
    if 0xE0 <= marker <= 0xEF or marker == 0xFE:
        return marker in _JPEG_KEPT and segment.startswith(_JPEG_KEPT[marker], 4)
    return marker in _JPEG_FRAMES or marker in _JPEG_TABLES
