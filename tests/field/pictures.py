"""Picture files as cameras, programs and transfers make them. Each says who sends such a thing."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from PIL import Image

from sd_inpaint.imaging import icc

SIZE: Final = (70, 53)
"""Width and height that no stride and no block divides."""

P3: Final = ((0.3127, 0.3290), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
BT2020: Final = ((0.3127, 0.3290), (0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
ADOBE: Final = ((0.3127, 0.3290), (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))


def colourful(size: tuple[int, int] = SIZE) -> Image.Image:
    """A smooth picture of many colours, none of them outside of sRGB when its values are those of a wider space."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(
        np.dstack((x * 120 // width + 60, y * 110 // height + 70, (x * 3 + y * 5) % 60 + 80)).astype(np.uint8)
    )


def ramp(size: tuple[int, int] = SIZE) -> Image.Image:
    """A grey picture of all levels."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(((x * 255 // width + y) % 256).astype(np.uint8))


def saved(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    """The file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def exif_of(orientation: int) -> bytes:
    """An EXIF block with this orientation and nothing else."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


# --- PNG -------------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes, *, is_bad: bool = False) -> bytes:
    """One chunk of a PNG, with a wrong checksum if asked for."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ is_bad)


def with_chunks(file: bytes, *chunks: bytes) -> bytes:
    """A PNG with chunks behind its head."""
    return file[:33] + b"".join(chunks) + file[33:]


def chunks_of(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a sound PNG."""
    at = 8
    while at < len(file):
        length = int.from_bytes(file[at : at + 4])
        yield file[at + 4 : at + 8], file[at + 8 : at + 8 + length]
        at += 12 + length


def rebuilt(file: bytes, change: Callable[[bytes, bytes], bytes]) -> bytes:
    """A PNG whose chunks are written anew by a function of type and content."""
    return file[:8] + b"".join(change(kind, data) for kind, data in chunks_of(file))


def png_damage_beside(file: bytes) -> dict[str, bytes]:
    """PNG of programs that get a detail wrong, such as editors that patch a chunk and not its checksum."""
    profile = b"x\0\0" + zlib.compress(icc.rgb_profile(P3, [icc.srgb_curve()]))
    bad = {
        "pHYs": struct.pack(">IIB", 2835, 2835, 1),
        "tEXt": b"Software\0Drawing Program",
        "zTXt": b"Comment\0\0" + zlib.compress(b"x"),
        "iTXt": b"XML:com.adobe.xmp\0\0\0\0\0<x/>",
        "tIME": struct.pack(">HBBBBB", 2024, 1, 1, 1, 1, 1),
        "iCCP": profile,
        "eXIf": b"II*\0\x08\0\0\0\0\0\0\0\0\0",
        "gAMA": struct.pack(">I", 100_000),
        "sBIT": b"\x08\x08\x08",
        "bKGD": bytes(6),
        "orNT": b"private",
    }
    files = {
        f"wrong sum of {name}": with_chunks(file, chunk(name.encode(), data, is_bad=True)) for name, data in bad.items()
    }
    malformed = {
        "short pHYs": chunk(b"pHYs", b"\0"),
        "short gAMA": chunk(b"gAMA", b"\0"),
        "short cHRM": chunk(b"cHRM", b"\0" * 8),
        "empty sRGB": chunk(b"sRGB", b""),
        "iCCP that is none": chunk(b"iCCP", b"x\0\0" + zlib.compress(b"bogus" * 50)),
        "iCCP that is not compressed": chunk(b"iCCP", b"x\0\0garbage"),
        "iCCP of another method": chunk(b"iCCP", b"x\0\7garbage"),
        "eXIf that is none": chunk(b"eXIf", b"garbage"),
        "empty eXIf": chunk(b"eXIf", b""),
        "broken XMP": chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta tiff:Orientation="6'),
        "text that does not unpack": chunk(b"zTXt", b"a\0\0garbage"),
        "animation that is none": chunk(b"acTL", b"\0") + chunk(b"fcTL", b"\0"),
    }
    files |= {name: with_chunks(file, data) for name, data in malformed.items()}
    end = chunk(b"IEND", b"")
    return files | {
        "wrong sum of IEND": file[:-4] + b"oops",
        "no IEND": file.removesuffix(end),
        "no sum of its last pixels": file.removesuffix(end)[:-4],
        "bytes behind it": file + b"\0" * 1000,
        "a ZIP behind it": file + b"PK\x03\x04" + b"x" * 1000,
        "a broken chunk behind its pixels": file.removesuffix(end) + b"\xff\xff\xff\xfftEXt" + b"x",
    }


def png_damage_inside(file: bytes) -> dict[str, bytes]:
    """PNG that bad memory, bad disks and broken transfers leave."""
    flipped = bytearray(file)
    flipped[len(file) // 2] ^= 1
    pixels = b"".join(data for kind, data in chunks_of(file) if kind == b"IDAT")
    head = file[:33]
    return {
        "wrong sum of IDAT": rebuilt(file, lambda kind, data: chunk(kind, data, is_bad=kind == b"IDAT")),
        "wrong sum of IHDR": rebuilt(file, lambda kind, data: chunk(kind, data, is_bad=kind == b"IHDR")),
        "a bit of the pixels": bytes(flipped),
        "wrong sum within the pixels": head + chunk(b"IDAT", pixels[:-4] + b"oops") + chunk(b"IEND", b""),
        "half of it": file[: len(file) // 2],
        "half of its pixels, and a right end": head + chunk(b"IDAT", pixels[: len(pixels) // 2]) + chunk(b"IEND", b""),
        "no pixels": head + chunk(b"IEND", b""),
    }


# --- JPEG ------------------------------------------------------------------------------------------------------------


def segment(marker: int, data: bytes) -> bytes:
    """One segment of a JPEG."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def with_segments(file: bytes, *segments: bytes) -> bytes:
    """A JPEG with segments behind its start."""
    return file[:2] + b"".join(segments) + file[2:]


def _noise(count: int) -> bytes:
    return np.random.default_rng(3).bytes(count)


def jpeg_damage_beside(file: bytes) -> dict[str, bytes]:
    """JPEG of phones, which append films, depth maps and more, and of editors that get a segment wrong."""
    film = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"mp42", 0, b"isom", b"mp42") + _noise(400_000)
    scans = b"\xff\xda" * 300
    inner = saved(colourful((16, 12)), "JPEG")
    samsung = b"\0\0\x01\x0a\x0e\0\0\0Image_UTC_Data" + _noise(5000) + b"SEFH\0\0SEFT"
    profile = icc.rgb_profile(P3, [icc.srgb_curve()])
    return {
        "a motion photo's film": file + b"MotionPhoto_Data" + film,
        "bytes like 300 scans": file + scans,
        "a thumbnail of 300 scans": with_segments(file, segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0" + scans)),
        "a gain map": file + inner + inner,
        "Samsung's trailer": file + samsung,
        "a ZIP": file + b"PK\x03\x04" + b"x" * 1000,
        "EXIF that is none": with_segments(file, segment(0xE1, b"Exif\0\0garbage")),
        "empty EXIF": with_segments(file, segment(0xE1, b"Exif\0\0")),
        "broken XMP": with_segments(file, segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6')),
        "a profile that is none": with_segments(file, segment(0xE2, b"ICC_PROFILE\0\1\1" + b"bogus" * 40)),
        "half of a profile": with_segments(file, segment(0xE2, b"ICC_PROFILE\0\1\2" + profile[:200])),
        "a broken index of pictures": with_segments(file, segment(0xE2, b"MPF\0garbage")),
        "Photoshop's data, broken": with_segments(file, segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04")),
        "a comment of nothing": with_segments(file, segment(0xFE, b"")),
        "fill bytes": file[:2] + b"\xff\xff\xff" + file[2:],
        "no end marker": file[:-2],
        "no end marker, a trailer": file[:-2] + samsung,
        "no end marker, zeros": file[:-2] + bytes(100),
        "no end marker, another picture": file[:-2] + inner,
    }


def jpeg_damage_inside(file: bytes) -> dict[str, bytes]:
    """JPEG whose transfer ended early; some tools then put an end marker behind it."""
    cut = {f"{percent}% of it": file[: len(file) * percent // 100] for percent in (60, 80, 95)}
    return cut | {f"{name}, and an end marker": data + b"\xff\xd9" for name, data in cut.items()}


# --- other containers ------------------------------------------------------------------------------------------------


def webp_damage_beside(file: bytes) -> dict[str, bytes]:
    """WebP of tools that change chunks and not the length in the head, or append something."""
    length = int.from_bytes(file[4:8], "little")
    wrong = {
        f"a length of {n:+d}": file[:4] + struct.pack("<I", (length + n) % 2**32) + file[8:]
        for n in (-9, -1, 1, 500, -length)
    }
    odd = file + b"EXIF\x03\0\0\0II*"
    return wrong | {
        "no byte to make it even": odd,
        "bytes behind it": file + b"junk" * 10,
        "a chunk cut off": file + b"EXIF\xff\0\0\0II",
    }


def gif_damage_beside(file: bytes) -> dict[str, bytes]:
    """GIF of writers that leave out the last byte, or append some."""
    return {"no trailer": file.removesuffix(b";"), "bytes behind it": file + b"\0" * 50}


def avif_with_broken_exif() -> bytes:
    """AVIF of a converter that copied an EXIF block wrongly; browsers show it."""
    file = saved(colourful(), "AVIF", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")
    return file.replace(b"II*\0\x08", b"QQQQ\x08")


# --- colours ---------------------------------------------------------------------------------------------------------


def grey_profile(gamma: float) -> bytes:
    """A profile of grey, as scanners and Photoshop's "Dot Gain" and "Gray Gamma" embed it."""
    parts = [
        (b"desc", b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(78)),
        (b"wtpt", b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)),
        (b"kTRC", b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"),
    ]
    start, table, body = 132 + 12 * len(parts), struct.pack(">I", len(parts)), b""
    for name, content in parts:
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + table + body


def png_of_16_bits(image: Image.Image, *chunks: bytes) -> bytes:
    """PNG of raw converters and scanners: 16 bits a channel, which Pillow does not write."""
    pixels = np.asarray(image).astype(">u2") * 257 + np.uint16(93)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *image.size, 16, 2, 0, 0, 0))
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def gamma_chunk(value: float) -> bytes:
    """Of programs that say how bright a PNG's values are meant."""
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def primaries_chunk(chromaticities: icc.Chromaticities) -> bytes:
    """Of programs that say how colourful a PNG's values are meant."""
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for point in chromaticities for value in point)))


def numbers_chunk(*numbers: int) -> bytes:
    """Of screenshots of HDR and wide-gamut screens."""
    return chunk(b"cICP", bytes(numbers))


def profile_chunk(profile: bytes) -> bytes:
    """Of nearly every editor."""
    return chunk(b"iCCP", b"x\0\0" + zlib.compress(profile))


def avif_of(primaries: int, transfer: int) -> bytes:
    """AVIF of phones and of encoders for the web, which write numbers and no profile."""
    file = saved(colourful(), "AVIF", quality=100, subsampling="4:4:4")
    at = file.index(b"colrnclx")
    return file[: at + 8] + struct.pack(">HH", primaries, transfer) + file[at + 12 :]


def bmp_of(
    image: Image.Image,
    *,
    kind: bytes = b"sRGB",
    profile: bytes = b"",
    alpha: int | None = None,
    primaries: tuple[int, ...] = (0,) * 9,
) -> bytes:
    """BMP with a V5 head: Windows' clipboard, with alpha that nobody set, and programs that embed a profile."""
    width, height = image.size
    levels = np.zeros((height, width), np.uint8) if alpha is None else np.full((height, width), alpha, np.uint8)
    pixels = np.dstack((np.asarray(image)[::-1, :, ::-1], levels[::-1])).tobytes()
    head = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 32, 3, len(pixels), 2835, 2835, 0, 0)
    head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + kind[::-1]
    head += struct.pack("<9i3I", *primaries, *(2**16 if any(primaries) else 0,) * 3)
    head += struct.pack("<IIII", 4, 124 + len(pixels) if profile else 0, len(profile), 0)
    start = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", start + len(pixels) + len(profile), 0, 0, start) + head + pixels + profile


def jpeg_of_adobe_rgb() -> bytes:
    """JPEG of Canon's and Sony's cameras set to Adobe RGB: no profile, but EXIF that says so by R03."""
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA001: 0xFFFF, 0xA005: {1: "R03"}})
    return saved(colourful(), "JPEG", quality=98, subsampling="4:4:4", exif=exif.tobytes())


def colour_files() -> dict[str, bytes]:
    """Each way to say what colours are that Chromium heeds."""
    rgb, grey = colourful(), ramp()
    display_p3 = icc.rgb_profile(P3, [icc.srgb_curve()])
    adobe = icc.rgb_profile(ADOBE, [icc.gamma_curve(2.2)])
    plain = saved(rgb)
    return {
        "Display P3, PNG": with_chunks(plain, profile_chunk(display_p3)),
        "Display P3, JPEG": saved(rgb, "JPEG", quality=95, icc_profile=display_p3),
        "Display P3, WebP": saved(rgb, "WEBP", lossless=True, icc_profile=display_p3),
        "Display P3, AVIF": saved(rgb, "AVIF", quality=95, icc_profile=display_p3),
        "Adobe RGB, JPEG": saved(rgb, "JPEG", quality=95, icc_profile=adobe),
        "grey profile, JPEG": saved(grey, "JPEG", quality=98, icc_profile=grey_profile(1.75)),
        "grey profile, PNG": saved(grey, icc_profile=grey_profile(1.0)),
        "grey profile with alpha, PNG": saved(grey.convert("LA"), icc_profile=grey_profile(2.6)),
        "grey profile on colours, JPEG": saved(rgb, "JPEG", quality=95, icc_profile=grey_profile(1.0)),
        "RGB profile on grey, JPEG": saved(grey, "JPEG", quality=95, icc_profile=display_p3),
        "16 bits, PNG": png_of_16_bits(rgb),
        "16 bits and Display P3, PNG": png_of_16_bits(rgb, profile_chunk(display_p3)),
        "16 bits, linear, PNG": png_of_16_bits(rgb, gamma_chunk(1.0)),
        "gAMA of 1, PNG": with_chunks(plain, gamma_chunk(1.0)),
        "gAMA of 1/1.8, PNG": with_chunks(plain, gamma_chunk(1 / 1.8)),
        "gAMA as in every second PNG": with_chunks(plain, gamma_chunk(0.45455)),
        "gAMA and sRGB's cHRM, PNG": with_chunks(plain, gamma_chunk(0.45455), primaries_chunk(icc.SRGB_PRIMARIES)),
        "gAMA and P3's cHRM, PNG": with_chunks(plain, gamma_chunk(0.45455), primaries_chunk(P3)),
        "cHRM alone, PNG": with_chunks(plain, primaries_chunk(P3)),
        "cHRM that is none, PNG": with_chunks(plain, gamma_chunk(0.6), primaries_chunk(((0.0, 0.0),) * 4)),
        "sRGB beside gAMA, PNG": with_chunks(plain, chunk(b"sRGB", b"\0"), gamma_chunk(1.0)),
        "cICP of P3, PNG": with_chunks(plain, numbers_chunk(12, 13, 0, 1)),
        "cICP over iCCP, PNG": with_chunks(plain, profile_chunk(adobe), numbers_chunk(12, 13, 0, 1)),
        "cICP of BT.709, PNG": with_chunks(plain, numbers_chunk(1, 1, 0, 1)),
        "cICP of PQ, PNG": with_chunks(plain, numbers_chunk(9, 16, 0, 1)),
        "cICP of HLG, PNG": with_chunks(plain, numbers_chunk(9, 18, 0, 1)),
        "cICP of limited range, PNG": with_chunks(plain, numbers_chunk(12, 13, 0, 0)),
        "grey with gAMA, PNG": with_chunks(saved(grey), gamma_chunk(1.0)),
        "numbers of P3, AVIF": avif_of(12, 13),
        "numbers of BT.709, AVIF": avif_of(1, 1),
        "numbers of SMPTE 240M, AVIF": avif_of(7, 7),
        "numbers of BT.2020, AVIF": avif_of(9, 14),
        "numbers of PQ, AVIF": avif_of(9, 16),
        "numbers of HLG, AVIF": avif_of(9, 18),
        "no numbers, AVIF": avif_of(2, 2),
        "primaries and gamma, BMP": bmp_of(rgb, kind=bytes(4), alpha=255, primaries=(2**29, 2**28, 2**26) * 3),
        "embedded profile, BMP": bmp_of(rgb, kind=b"MBED", profile=display_p3, alpha=255),
        "CMYK, JPEG": saved(rgb.convert("CMYK"), "JPEG", quality=95),
    }
