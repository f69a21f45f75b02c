"""How files say what their colours are, each in its own way → one ICC profile of RGB.

Where browsers differ from a format's text, this follows Chromium, which was measured: what is kept of a picture is to
look as it did.
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from PIL import Image

from sd_inpaint.imaging import exif, icc
from sd_inpaint.imaging.containers import CodedPicture
from sd_inpaint.imaging.icc import Chromaticities

_D65: Final = (0.3127, 0.3290)
_C: Final = (0.310, 0.316)

_PRIMARIES: Final[Mapping[int, Chromaticities]] = {
    1: icc.SRGB_PRIMARIES,
    2: icc.SRGB_PRIMARIES,
    4: (_C, (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: (_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    8: (_C, (0.681, 0.319), (0.243, 0.692), (0.145, 0.049)),
    9: (_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: ((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: (_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: (_D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}
"""Source: ITU-T H.273, table 2; what is unspecified is taken as BT.709's, and so are numbers that are not here."""

_CURVES: Final[Mapping[int, Callable[[], icc.Curve]]] = {
    4: lambda: icc.gamma_curve(2.2),
    5: lambda: icc.gamma_curve(2.8),
    7: icc.smpte240_curve,
    8: lambda: icc.gamma_curve(1.0),
    16: icc.pq_curve,
    18: icc.hlg_curve,
}
"""Source: ITU-T H.273, table 3; numbers that are neither here nor below are taken as sRGB's."""

_HDR: Final = (16, 18)

_CAMERA_CURVES: Final = (1, 6, 11, 14, 15)
"""BT.709 and its like. Chromium shows a PNG of them by a gamma of 2.4, and other files as if they were sRGB."""

_ADOBE_RGB: Final[Chromaticities] = (_D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_ADOBE_GAMMA: Final = 563 / 256
"""Source: Adobe RGB (1998) Color Image Encoding, 4.3.1."""

_PLAIN_GAMMA: Final = 0.45455
"""A PNG that says this, and no primaries, is shown as sRGB."""

_V5_BYTES: Final = 124

_GREY_MODES: Final = ("1", "L", "LA", "La", "I", "F")

_MAX_PNG_PROFILE: Final = 32 * 1024 * 1024
"""Bytes that a PNG's profile may unpack to; what is larger is no profile."""


def find_profile(image: Image.Image, coded: CodedPicture) -> bytes | None:
    """The profile of an image's values; None where they are sRGB, as values are that nothing is said of.

    Args:
        image: As Pillow read it.
        coded: Its file.

    Returns:
        An RGB profile, for the values as RGB; for CMYK, and for grey by tables, the file's own.
    """
    if image.format == "PNG":
        found = _of_png(coded.png_colours)
    elif image.format == "BMP":
        found = _of_bmp(coded.data)
    else:
        found = image.info.get("icc_profile")
        if not _is_profile(found):
            found = _of_numbers(image, coded.data)
    if not isinstance(found, bytes) or not _is_profile(found):
        return None
    space = found[16:20]
    if space == b"GRAY" and image.mode.split(";")[0] in _GREY_MODES:
        return _grey_as_rgb(found)
    wanted = {"CMYK": b"CMYK", "LAB": None}.get(image.mode, b"RGB ")
    return found if space == wanted else None


def from_cicp(primaries: int, transfer: int, *, is_png: bool = False) -> bytes | None:
    """The profile of a colour space by the numbers of ITU-T H.273; None for sRGB."""
    chromaticities = _PRIMARIES.get(primaries, icc.SRGB_PRIMARIES)
    if transfer in _CURVES:
        curve = _CURVES[transfer]()
    elif is_png and transfer in _CAMERA_CURVES:
        curve = icc.gamma_curve(2.4)
    elif chromaticities == icc.SRGB_PRIMARIES:
        return None
    else:
        curve = icc.srgb_curve()
    return icc.rgb_profile(chromaticities, [curve], cicp=(primaries, transfer, 0, 1) if transfer in _HDR else None)


def _is_profile(found: object) -> bool:
    # Source: ICC.1:2022, 7.2: the file's signature at byte 36.
    return isinstance(found, bytes) and len(found) >= 128 and found[36:40] == b"acsp"


def _grey_as_rgb(profile: bytes) -> bytes:
    """Its curve for three channels: equal values are the same grey."""
    curve = icc.tag(profile, b"kTRC")
    return profile if curve is None else icc.rgb_profile(icc.SRGB_PRIMARIES, [curve])


def _of_png(chunks: Mapping[bytes, bytes]) -> bytes | None:
    """Source: PNG (Third Edition), 4.3: the order in which the chunks count."""
    cicp = chunks.get(b"cICP", b"")
    if len(cicp) == 4 and cicp[2:] == b"\0\1":
        return from_cicp(cicp[0], cicp[1], is_png=True)
    profile = _inflated_profile(chunks.get(b"iCCP", b""))
    if _is_profile(profile):
        return profile
    gamma = chunks.get(b"gAMA", b"")
    if b"sRGB" in chunks or len(gamma) != 4 or not any(gamma):
        return None
    exponent = int.from_bytes(gamma) / 100_000
    numbers = chunks.get(b"cHRM", b"")
    has_primaries = len(numbers) == 32
    if not has_primaries and abs(exponent - _PLAIN_GAMMA) < 0.0005:
        return None
    chromaticities = icc.SRGB_PRIMARIES
    if has_primaries:
        values = [value / 100_000 for value in struct.unpack(">8I", numbers)]
        chromaticities = tuple(zip(values[::2], values[1::2], strict=True))
    return _written(chromaticities, [1 / exponent])


def _inflated_profile(chunk: bytes) -> bytes | None:
    name, separator, rest = chunk.partition(b"\0")
    if not separator or not rest or len(name) > 79:
        return None
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(rest[1:], _MAX_PNG_PROFILE)
    except zlib.error:
        return None
    return None if unpacker.unconsumed_tail else profile


def _of_bmp(data: bytes) -> bytes | None:
    """An embedded profile, which Chromium heeds, as it does no primaries. Source: Microsoft, BITMAPV5HEADER."""
    if len(data) < 14 + _V5_BYTES or int.from_bytes(data[14:18], "little") < _V5_BYTES or data[70:74] != b"DEBM":
        return None
    start, length = struct.unpack_from("<II", data, 14 + 112)
    return data[14 + start : 14 + start + length]


def _of_numbers(image: Image.Image, data: bytes) -> bytes | None:
    """What files without a profile say: AVIF and HEIF by a table of ITU-T, others by EXIF."""
    if image.format == "AVIF":
        numbers = _avif_numbers(data)
        return None if numbers is None else from_cicp(*numbers)
    nclx = image.info.get("nclx_profile")
    if isinstance(nclx, dict):
        return from_cicp(int(nclx["color_primaries"]), int(nclx["transfer_characteristics"]))
    return _written(_ADOBE_RGB, [_ADOBE_GAMMA]) if _is_adobe_rgb(image) else None


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Source: DCF 2.0: cameras mark Adobe RGB as uncalibrated, with the interoperability index R03; some write 2."""
    data = exif.read(image)
    space = exif.read_group(data, 0x8769).get(0xA001)
    return space == 2 or (space == 0xFFFF and str(exif.read_group(data, 0xA005).get(1)).startswith("R03"))


def _avif_numbers(data: bytes) -> tuple[int, int] | None:
    """Primaries and transfer of the first colour box, which is the picture's.

    Source: ISO/IEC 23008-12, 6.5.5, and ISO/IEC 14496-12, 12.1.5.
    """
    for meta in _boxes(data, b"meta"):
        for properties in _boxes(meta[4:], b"iprp"):
            for container in _boxes(properties, b"ipco"):
                for colour in _boxes(container, b"colr"):
                    if colour[:4] == b"nclx" and len(colour) >= 8:
                        return struct.unpack_from(">HH", colour, 4)
    return None


def _boxes(data: bytes, wanted: bytes) -> Iterator[bytes]:
    """The contents of the boxes of one type, side by side in ``data``."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1 and at + 16 <= len(data):
            length, head = struct.unpack_from(">Q", data, at + 8)[0], 16
        if length == 0:
            length = len(data) - at
        if length < head:
            return
        if kind == wanted:
            yield data[at + head : at + length]
        at += length


def _written(chromaticities: Chromaticities, exponents: list[float]) -> bytes | None:
    try:
        return icc.rgb_profile(chromaticities, [icc.gamma_curve(exponent) for exponent in exponents])
    except (ValueError, ArithmeticError, struct.error):
        # Numbers that are no colour space: viewers show such a picture as if they were not there.
        return None
