"""Bytes ↔ pictures. All distrust of uploads is here.

What comes in is bytes that claim nothing: the format is found from the bytes, among those in ``FORMATS`` only. The
size is read from the header and checked before a pixel is decoded; then the picture is decoded whole, so that what
leaves this module can no longer fail. Whatever Pillow or libheif raise on the way is translated here.

Any number of threads may call these functions at once.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Final

import numpy as np
import pillow_heif

# AVIF and WebP register themselves by being imported; Pillow would else import all its plugins at the first such file.
from PIL import (
    AvifImagePlugin,  # noqa: F401
    GifImagePlugin,
    Image,
    ImageFile,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from sd_inpaint.errors import (
    CallerError,
    ImageTooLargeError,
    InvalidImageError,
    InvalidMaskError,
)
from sd_inpaint.imaging import colour_tags, colours, containers, exif, frames, probe
from sd_inpaint.picture import Picture, Pixels

FORMATS: Final = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "HEIF")
"""Formats that are read, by Pillow's names: none that runs a program (EPS) or contains other files (PDF, ICO, ICNS)."""

_THUMBNAIL_ONLY: Final = (
    "TIFF that holds a thumbnail only, as raw files of cameras do; export the picture as JPEG or PNG"
)

_FOREIGN_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)
"""Exceptions that Pillow and pillow-heif raise for damaged files; ``Warning`` if the host turns those into errors."""

pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
ImageFile.LOAD_TRUNCATED_IMAGES = False
# The bound here is ``max_pixels``, and an error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Python keeps each text that it has warned of, and a file with 60,000 odd tags has as many texts.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageFormat(StrEnum):
    """The formats of results. Only PNG keeps every pixel; the others are lossy, at high quality."""

    PNG = "png"
    WEBP = "webp"
    JPEG = "jpeg"
    AVIF = "avif"

    @property
    def media_type(self) -> str:
        """The Content-Type of this format, such as ``image/png``."""
        return f"image/{self.value}"

    @property
    def max_side(self) -> int:
        """The largest width or height, in pixels, that this format or its readers support."""
        return _MAX_SIDES[self]


_MAX_SIDES: Final = {
    ImageFormat.PNG: 2**31 - 1,
    ImageFormat.WEBP: 16_383,
    ImageFormat.JPEG: 65_500,
    ImageFormat.AVIF: 32_768,
}

_SAVE_OPTIONS: Final[dict[ImageFormat, dict[str, Any]]] = {
    ImageFormat.PNG: {"compress_level": 1},
    ImageFormat.WEBP: {"quality": 90, "method": 2},
    ImageFormat.JPEG: {"quality": 95, "subsampling": "4:4:4"},
    ImageFormat.AVIF: {"quality": 85, "subsampling": "4:4:4", "speed": 10},
}


def decode_image(data: bytes, *, max_pixels: int, keep_exif: bool = False) -> Picture:
    """Reads a picture of any format in ``FORMATS``; of an animation, the first frame.

    It comes upright (:func:`~sd_inpaint.imaging.exif.upright`). RGB values are those of the file; of more than 8 bits
    the high byte; the profile says what they are, in whatever way the file did. CMYK, LAB, and RGB by a profile that
    cannot be used backwards, are converted to sRGB.

    Args:
        data: The file, whatever its name or declared type.
        max_pixels: Largest width times height, checked before pixels are decoded.
        keep_exif: Whether to keep the picture's EXIF data, which may say where and by whom it was taken.

    Raises:
        InvalidImageError: If it is not such a picture, or is damaged or truncated.
        ImageTooLargeError: If it has more pixels than ``max_pixels``.
    """
    with (
        _translated("image", InvalidImageError),
        _decoded(data, "image", InvalidImageError, max_pixels) as (source, coded),
    ):
        profile = colour_tags.find_profile(source, coded)
        rgb, alpha = colours.channels(exif.upright(source), profile)
        if profile is not None and not colours.is_carried(profile):
            # Colours by inks were converted above, and this leaves them as they are.
            rgb, profile = colours.to_srgb(rgb, profile), None
        return Picture(rgb, alpha, profile, exif.carried(source) if keep_exif else None)


def decode_mask(data: bytes, *, max_pixels: int) -> Pixels:
    """Reads a mask: the luminance of a picture of any format and mode, transparent parts counting as black.

    It is turned upright as the image is: both are taken as they are seen.

    Args:
        data: The file, whatever its name or declared type.
        max_pixels: Largest width times height, checked before pixels are decoded.

    Returns:
        (H, W) uint8, 255 repaint, 0 keep.

    Raises:
        InvalidMaskError: If it is not such a picture, or is damaged or truncated.
        ImageTooLargeError: If it has more pixels than ``max_pixels``.
    """
    with _translated("mask", InvalidMaskError), _decoded(data, "mask", InvalidMaskError, max_pixels) as (source, _):
        return colours.luminance(exif.upright(source))


def decode_mask_alpha(data: bytes, *, max_pixels: int) -> Pixels | None:
    """Reads the opacity of a mask whose transparent part is to be repainted; raises as :func:`decode_mask` does.

    Returns:
        (H, W) uint8, 0 transparent, 255 opaque; None where the file has no transparency.
    """
    with _translated("mask", InvalidMaskError), _decoded(data, "mask", InvalidMaskError, max_pixels) as (source, _):
        return colours.channels(exif.upright(source))[1]


def read_text(data: bytes, *, max_pixels: int) -> str:
    """Reads the parameters that a picture's file carries: where :func:`encode` and AUTOMATIC1111's web UI put them.

    The file is read as it came, for its pixels are decoded from a copy without its texts. No pixel is decoded here.

    Args:
        data: The file, whatever its name or declared type.
        max_pixels: Largest width times height.

    Returns:
        The text; empty where there is none.

    Raises:
        InvalidImageError: If it is not such a picture, or its head is damaged or truncated.
        ImageTooLargeError: If it has more pixels than ``max_pixels``.
    """
    with _translated("image", InvalidImageError), _opened(data) as source:
        _check_size(source.size, "image", max_pixels)
        text = source.info.get("parameters")
        if isinstance(text, str):
            return str(text)
        comment = source.getexif().get_ifd(0x8769).get(0x9286)
        if not isinstance(comment, bytes) or not comment.startswith(b"UNICODE\0"):
            return ""
        return comment[8:].decode("utf-16-be", "replace")


def read_xmp(data: bytes, *, max_pixels: int) -> str:
    """Reads a picture's XMP packet; arguments, errors and cost as for :func:`read_text`.

    Returns:
        The packet; empty where there is none.
    """
    with _translated("image", InvalidImageError), _opened(data) as source:
        _check_size(source.size, "image", max_pixels)
        packet = source.info.get("xmp") or source.info.get("XML:com.adobe.xmp") or ""
        return packet.decode("utf-8", "replace") if isinstance(packet, bytes) else str(packet)


def read_size(data: bytes, name: str, *, max_pixels: int) -> tuple[int, int]:
    """Reads the size of a picture off its headers, and refuses what would take too long to decode.

    The file may lie, and its EXIF orientation is not applied: this is for what decoding will cost.

    Args:
        data: The file.
        name: ``image`` or ``mask``, for messages.
        max_pixels: Largest width times height.

    Returns:
        (width, height) in pixels.

    Raises:
        InvalidImageError, InvalidMaskError, ImageTooLargeError: As the decoding functions raise them.
    """
    error_class = InvalidMaskError if name == "mask" else InvalidImageError
    with _translated(name, error_class), _open(data, name, error_class, max_pixels) as (source, _):
        return source.size


def check_encodable(size: tuple[int, int], image_format: ImageFormat) -> None:
    """Checks that a format can hold a picture of this size; call it before minutes of painting.

    Raises:
        ImageTooLargeError: If a side is longer than the format allows.
    """
    if max(size) > image_format.max_side:
        raise ImageTooLargeError(
            f"A {image_format.value} file can have at most {image_format.max_side} pixels per side; the picture is "
            f"{size[0]}x{size[1]}. Request image/png instead.",
            image_size=list(size),
            max_side=image_format.max_side,
        )


def encode(
    picture: Picture,
    image_format: ImageFormat = ImageFormat.PNG,
    *,
    quality: int | None = None,
    text: dict[str, str] | None = None,
    xmp: bytes | None = None,
) -> bytes:
    """Writes a picture with its profile.

    PNG keeps every value of ``rgb`` and ``alpha``. WebP and AVIF keep alpha, and colours nearly. JPEG has no alpha:
    the picture is laid on white, as picture viewers and web pages show it. No JPEG holds a text beyond 64 KiB either.

    Args:
        picture: What to write.
        image_format: The file format.
        quality: 1 to 100, for a lossy format; None takes the format's own. Of no effect on PNG.
        text: Keyword → text. PNG has a text chunk for each; the others have ``parameters`` as EXIF user comment.
        xmp: An XMP packet, UTF-8.

    Raises:
        ImageTooLargeError: If the format can't hold a picture of this size.
    """
    check_encodable(picture.size, image_format)
    options = dict(_SAVE_OPTIONS[image_format])
    if quality is not None and "quality" in options:
        options["quality"] = quality
    if picture.icc_profile is not None:
        options["icc_profile"] = picture.icc_profile
    if image_format is ImageFormat.PNG:
        options["pnginfo"] = _png_texts(text or {}, xmp)
        if picture.exif is not None:
            options["exif"] = picture.exif
    else:
        if xmp is not None:
            options["xmp"] = xmp
        block = picture.exif or b""
        if text and "parameters" in text:
            block = _user_comment(text["parameters"], block)
        if len(block) <= exif.MAX_BYTES or image_format is not ImageFormat.JPEG:
            options["exif"] = block
    buffer = io.BytesIO()
    _flat_or_alpha(picture, image_format).save(buffer, format=image_format.name, **options)
    return buffer.getvalue()


@contextmanager
def _translated(name: str, error_class: type[CallerError]) -> Iterator[None]:
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(f"The {name} has more pixels than this server accepts.") from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise error_class(f"The {name} is damaged or in an unsupported format. Supported formats: {known}.") from error
    except _FOREIGN_ERRORS as error:
        raise error_class(f"The {name} cannot be decoded: the file is truncated or damaged{_reason(error)}.") from error


def _reason(error: BaseException) -> str:
    """The library's message, if it is short and contains no memory addresses."""
    text = str(error)
    return f" ({text})" if 0 < len(text) <= 100 and text.isprintable() and "0x" not in text else ""


@contextmanager
def _open(
    data: bytes, name: str, error_class: type[CallerError], max_pixels: int
) -> Iterator[tuple[Image.Image, containers.CodedPicture]]:
    """Yields the picture with its pixels still in the file, and that; what would take too long is refused."""
    if not data:
        raise error_class(f"The {name} is empty: 0 bytes were sent.")
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        # Only ever widened, so that threads need no lock; the operator's bound is checked below.
        Image.MAX_IMAGE_PIXELS = max_pixels
    if problem := probe.problem_of_file(data):
        raise error_class(f"The {name} is a {problem}.")
    if size := probe.declared_size(data):
        _check_size(size, name, max_pixels)
    coded = containers.coded_picture(data)
    if problem := probe.problem_of_scans(coded.scans):
        raise error_class(f"The {name} is a {problem}.")
    with _opened(coded.data) as source:
        if isinstance(source, TiffImagePlugin.TiffImageFile) and not frames.seek_picture(source):
            raise error_class(f"The {name} is a {_THUMBNAIL_ONLY}.")
        _check_size(source.size, name, max_pixels)
        if problem := probe.problem_of_picture(source, coded.data, max_pixels):
            raise error_class(f"The {name} is a {problem}.")
        yield source, coded


@contextmanager
def _decoded(
    data: bytes, name: str, error_class: type[CallerError], max_pixels: int
) -> Iterator[tuple[Image.Image, containers.CodedPicture]]:
    """Yields the decoded, not yet rotated picture and its file; its size is checked before and after decoding."""
    with _open(data, name, error_class, max_pixels) as (source, coded):
        # Pillow would turn a TIFF by it, and browsers turn nothing by it.
        for key in ("xmp", "XML:com.adobe.xmp"):
            source.info.pop(key, None)
        source.load()
        # libheif learns the true size only when it decodes.
        _check_size(source.size, name, max_pixels)
        if coded.other is not None:
            _check_rows(source, coded.other)
        yield (frames.on_screen(source) if isinstance(source, GifImagePlugin.GifImageFile) else source), coded


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except ValueError:
        if data[4:8] != b"ftyp":
            raise
        return Image.open(io.BytesIO(containers.without_avif_exif(data)), formats=FORMATS)


def _check_rows(source: Image.Image, other: bytes) -> None:
    """Refuses a JPEG whose pixels depend on what would follow its end."""
    with Image.open(io.BytesIO(other), formats=FORMATS) as continued:
        if source.tobytes() != continued.tobytes():
            raise ValueError("its end is missing")


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"The {name} is {width}x{height} = {width * height} pixels; this server accepts at most {max_pixels}.",
            size=[width, height],
            max_pixels=max_pixels,
        )
    if max(size) > probe.MAX_SIDE:
        raise ImageTooLargeError(
            f"The {name} is {width}x{height} pixels; this server accepts at most {probe.MAX_SIDE} per side.",
            size=[width, height],
            max_side=probe.MAX_SIDE,
        )


def _flat_or_alpha(picture: Picture, image_format: ImageFormat) -> Image.Image:
    if picture.alpha is None:
        return Image.fromarray(picture.rgb)
    rgba = Image.fromarray(np.dstack((picture.rgb, picture.alpha)))
    if image_format is not ImageFormat.JPEG:
        return rgba
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _png_texts(texts: dict[str, str], xmp: bytes | None) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    if xmp is not None:
        info.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8"))
    return info


def _user_comment(text: str, camera: bytes) -> bytes:
    """EXIF with the text as user comment, where A1111 and IOPaint put the parameters in files other than PNG."""
    block = Image.Exif()
    if camera:
        block.load(camera)
    # Source: EXIF 2.32, tag 0x9286: eight bytes name the character code; readers take UNICODE as big-endian UTF-16.
    block.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be")
    return block.tobytes()
