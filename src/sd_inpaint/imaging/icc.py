"""ICC profiles of RGB colours, written from primaries and a transfer curve.

lcms, as Pillow has it, reads any profile but writes only that of sRGB. Files say their colours in other ways too, and a
result carries them as a profile.
"""

import struct
from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Chromaticities: TypeAlias = tuple[tuple[float, float], ...]
"""CIE x, y of white, red, green and blue."""

Curve: TypeAlias = bytes
"""A tag that says how much light a value is: ``curv`` or ``para``."""

_D50: Final = (0.9642, 1.0, 0.8249)
"""Source: ICC.1:2022, 7.2.16."""

_BRADFORD: Final = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
"""Source: ICC.1:2022, annex E."""

SRGB_PRIMARIES: Final[Chromaticities] = ((0.3127, 0.3290), (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))

_SRGB_CURVE: Final = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)

_TABLE_ENTRIES: Final = 4096


def gamma_curve(exponent: float) -> Curve:
    """The curve light = value ** exponent."""
    return _parametric(0, (exponent,))


def srgb_curve() -> Curve:
    """The curve of sRGB."""
    return _parametric(3, _SRGB_CURVE)


def smpte240_curve() -> Curve:
    """The inverse of the camera's curve in SMPTE 240M."""
    return _parametric(3, (1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4.0, 0.0913))


def table_curve(light: npt.NDArray[np.float64]) -> Curve:
    """A curve by its values, from 0 to 1, at equal distances."""
    levels = np.rint(np.clip(light, 0, 1) * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", len(levels)) + levels.tobytes()


def pq_curve(white_nits: float = 203.0) -> Curve:
    """SMPTE ST 2084, up to the white of a picture that is not HDR.

    Source: ITU-R BT.2100, table 4; 203 cd/m² is the white of BT.2408.
    """
    signal = np.linspace(0, 1, _TABLE_ENTRIES) ** (32 / 2523)
    light = (np.maximum(signal - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * signal)) ** (16384 / 2610)
    return table_curve(light * 10_000 / white_nits)


def hlg_curve(white: float = 0.75) -> Curve:
    """Hybrid log-gamma, up to the white of a picture that is not HDR, for a screen of 1000 cd/m².

    Source: ITU-R BT.2100, table 5; white at 75 % of the signal is that of BT.2408.
    """
    signal = np.append(np.linspace(0, 1, _TABLE_ENTRIES), white)
    upper = (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
    light = np.where(signal <= 0.5, signal**2 / 3, upper) ** 1.2
    return table_curve(light[:-1] / light[-1])


def rgb_profile(
    chromaticities: Chromaticities, curves: Sequence[Curve], *, cicp: tuple[int, int, int, int] | None = None
) -> bytes:
    """Writes the profile of an RGB space.

    Args:
        chromaticities: Of white, red, green and blue.
        curves: One for all three channels, or one for each.
        cicp: Primaries, transfer, matrix and range of ITU-T H.273, for readers who know HDR; the curves are for others.

    Returns:
        A display profile of version 4.4.

    Raises:
        ValueError: If the chromaticities span no colours.
    """
    red, green, blue = curves if len(curves) == 3 else (curves[0],) * 3
    matrix = _to_d50(chromaticities)
    tags = [
        (b"desc", _text("RGB")),
        (b"cprt", _text("CC0")),
        (b"wtpt", _xyz(_D50)),
        *((name, _xyz(matrix[:, n])) for n, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))),
        (b"rTRC", red),
        (b"gTRC", green),
        (b"bTRC", blue),
    ]
    if cicp is not None:
        # Source: ICC.1:2022, 10.3.
        tags.append((b"cicp", b"cicp\0\0\0\0" + bytes(cicp)))
    return _profile(tags)


def tag(profile: bytes, name: bytes) -> bytes | None:
    """The content of a profile's tag; None where it has none that lies within it."""
    if len(profile) < 132:
        return None
    count = int.from_bytes(profile[128:132])
    for at in range(132, min(132 + 12 * count, len(profile) - 11), 12):
        signature, start, length = struct.unpack_from(">4sII", profile, at)
        if signature == name and length > 8 and start + length <= len(profile):
            return profile[start : start + length]
    return None


def _to_d50(chromaticities: Chromaticities) -> npt.NDArray[np.float64]:
    """(3, 3): linear RGB → XYZ relative to D50, adapted by Bradford's method.

    Source: ICC.1:2022, annexes E and F.
    """
    if any(not (0 <= x <= 1 and 0 < y <= 1) for x, y in chromaticities):
        raise ValueError("chromaticities out of range")
    white, *primaries = (np.array((x / y, 1.0, (1 - x - y) / y)) for x, y in chromaticities)
    columns = np.stack(primaries, axis=1)
    if abs(np.linalg.det(columns)) < 1e-6:
        raise ValueError("chromaticities span no colours")
    columns = columns * np.linalg.solve(columns, white)
    cone = (_BRADFORD @ np.array(_D50)) / (_BRADFORD @ white)
    adapted: npt.NDArray[np.float64] = np.linalg.inv(_BRADFORD) @ (cone[:, None] * _BRADFORD) @ columns
    if not (np.isfinite(adapted).all() and np.abs(adapted).max() < 4):
        raise ValueError("chromaticities span no colours")
    return adapted


def _parametric(kind: int, values: Sequence[float]) -> Curve:
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + b"".join(_fixed(value) for value in values)


def _xyz(values: Sequence[float] | npt.NDArray[np.float64]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(_fixed(float(value)) for value in values)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _text(text: str) -> bytes:
    coded = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(coded), 28) + coded


def _profile(tags: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Source: ICC.1:2022, 7.2 and 7.3."""
    start = 132 + 12 * len(tags)
    table, body = len(tags).to_bytes(4), b""
    for name, content in tags:
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x04400000, b"mntr", b"RGB ", b"XYZ ")
    # The date is fixed, so that the same picture gives the same bytes.
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + b"".join(map(_fixed, _D50))
    return head + bytes(128 - len(head)) + table + body
