"""Pictures that are stored turned, by every way in which a file can say so. Each names who sends such a thing."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from PIL import Image, PngImagePlugin

from tests.field.pictures import chunk, exif_of, saved

XMP: Final = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{}"/></rdf:RDF></x:xmpmeta>'
)


@dataclass(frozen=True, slots=True)
class Turned:
    """A way in which a file says how it is turned.

    Attributes:
        make: Picture and orientation → file.
        is_shown: Whether browsers show this format.
    """

    make: Callable[[Image.Image, int], bytes]
    is_shown: bool = True


def _xmp_text(orientation: int) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.format(orientation))
    return info


def _raw_profile(orientation: int) -> PngImagePlugin.PngInfo:
    block = exif_of(orientation)
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    return info


def _png_exif_behind(image: Image.Image, orientation: int) -> bytes:
    file = saved(image)
    return file[:-12] + chunk(b"eXIf", exif_of(orientation)[6:]) + file[-12:]


def _avif_exif_only(image: Image.Image, orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0128] = 3
    file = saved(image, "AVIF", quality=95, exif=tags.tobytes())
    for order in "<>":
        before = struct.pack(f"{order}HHIHH", 0x0128, 3, 1, 3, 0)
        file = file.replace(before, struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0))
    return file


TURNED: Final = {
    # Phones and cameras.
    "JPEG, EXIF": Turned(lambda image, n: saved(image, "JPEG", quality=98, exif=exif_of(n))),
    # Lightroom and the like, for pictures whose EXIF they leave alone.
    "JPEG, XMP": Turned(lambda image, n: saved(image, "JPEG", quality=98, xmp=XMP.format(n).encode())),
    # Converters of phone pictures.
    "PNG, EXIF": Turned(lambda image, n: saved(image, exif=exif_of(n))),
    # exiftool, which appends.
    "PNG, EXIF behind the pixels": Turned(_png_exif_behind),
    # Adobe's programs.
    "PNG, XMP": Turned(lambda image, n: saved(image, pnginfo=_xmp_text(n))),
    # ImageMagick before PNG had EXIF.
    "PNG, EXIF as text": Turned(lambda image, n: saved(image, pnginfo=_raw_profile(n))),
    # Converters of phone pictures, and Android's camera apps.
    "WebP, EXIF": Turned(lambda image, n: saved(image, "WEBP", lossless=True, exif=exif_of(n))),
    "WebP, XMP": Turned(lambda image, n: saved(image, "WEBP", lossless=True, xmp=XMP.format(n).encode())),
    # Encoders that turn by the format's own boxes.
    "AVIF, boxes": Turned(lambda image, n: saved(image, "AVIF", quality=98, exif=exif_of(n))),
    # Encoders that copy EXIF and do not.
    "AVIF, EXIF": Turned(_avif_exif_only),
    "AVIF, XMP": Turned(lambda image, n: saved(image, "AVIF", quality=98, xmp=XMP.format(n).encode())),
    # Formats that cannot say it.
    "GIF": Turned(lambda image, n: saved(image, "GIF")),
    "BMP": Turned(lambda image, n: saved(image, "BMP")),
    # iPhones and Android phones.
    "HEIC, boxes": Turned(lambda image, n: saved(image, "HEIF", quality=98, exif=exif_of(n)), is_shown=False),
    # Scanners.
    "TIFF, its tag": Turned(lambda image, n: saved(image, "TIFF", exif=exif_of(n)), is_shown=False),
}
