"""From a request to what painting needs of its pictures: the effective mask, the canvases and their pixels."""

from dataclasses import dataclass

import numpy as np

from sd_inpaint.imaging import codecs, colours, geometry, masks
from sd_inpaint.imaging.geometry import Canvas, CanvasLimits
from sd_inpaint.imaging.pair import ReadMask, decode_pair, read_luminance
from sd_inpaint.picture import Flags, Picture, Pixels
from sd_inpaint.schema import InpaintParameters, InpaintRequest, MaskedContent, SoftMask


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """What a caller sent, as files: enough to decode it now, or again when its turn has come.

    Attributes:
        image: The uploaded file.
        mask: The uploaded file; None where there is none.
        parameters: What was asked beside the files.
        max_pixels: Largest width times height of either.
        read_mask: What the mask's pixels mean; a function of a module.
    """

    image: bytes
    mask: bytes | None
    parameters: InpaintParameters
    max_pixels: int
    read_mask: ReadMask = read_luminance

    @property
    def size_bytes(self) -> int:
        """Bytes of both files."""
        return len(self.image) + len(self.mask or b"")

    def pixels(self) -> int:
        """Reads off their headers how many pixels the larger picture has.

        Raises:
            InvalidImageError, InvalidMaskError, ImageTooLargeError: As :mod:`sd_inpaint.imaging.codecs` raises them.
        """
        sizes = [codecs.read_size(self.image, "image", max_pixels=self.max_pixels)]
        if self.mask is not None:
            sizes.append(codecs.read_size(self.mask, "mask", max_pixels=self.max_pixels))
        return max(width * height for width, height in sizes)

    def decode(self) -> InpaintRequest:
        """Decodes both files; raises as :func:`~sd_inpaint.imaging.pair.decode_pair` does."""
        return decode_pair(self.image, self.mask, self.parameters, max_pixels=self.max_pixels, read_mask=self.read_mask)


@dataclass(frozen=True, slots=True, eq=False)
class CanvasPixels:
    """What the model works on of one canvas.

    Attributes:
        image: (H, W, 3) uint8, of the canvas's size.
        mask: (H, W) uint8; 255 repaints, 0 keeps.
        rim: (H, W) bool, as :class:`~sd_inpaint.engine.canvas_jobs.CanvasTask` has it; None where there is none.
    """

    image: Pixels
    mask: Pixels
    rim: Flags | None


@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """All that painting needs of a request's pictures.

    Attributes:
        image: The upright input picture.
        mask: (H, W) uint8, the effective mask.
        canvases: Where the model works; none for an empty mask.
        cuts: The pixels of each canvas.
        is_all_white: Whether the effective mask is white throughout.
        brightest: As in :class:`~sd_inpaint.schema.InpaintResult`.
        brightest_sent: As there.
        image_sha256: As in :class:`~sd_inpaint.schema.InpaintRequest`.
        mask_sha256: As there.
    """

    image: Picture
    mask: Pixels
    canvases: tuple[Canvas, ...]
    cuts: tuple[CanvasPixels, ...]
    is_all_white: bool
    brightest: int = 255
    brightest_sent: int = 255
    image_sha256: str = ""
    mask_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Outline:
    """What the queue needs to know of a request, without a pixel.

    Attributes:
        size: (width, height) of the upright picture.
        has_alpha: Whether it is translucent.
        canvases: Where the model will work.
    """

    size: tuple[int, int]
    has_alpha: bool
    canvases: tuple[Canvas, ...]


def prepare(request: InpaintRequest, limits: CanvasLimits) -> Preparation:
    """Makes the effective mask, chooses the canvases and cuts them out.

    Raises:
        ImageTooLargeError: If ``region=full`` needs a larger canvas than the device can hold.
    """
    parameters = request.parameters
    mask, canvases = _plan(request, limits)
    seen = masks.visible(mask)
    brightest = mask.max(keepdims=True)
    if parameters.soft_mask is SoftMask.STRENGTH:
        brightest = masks.compositing_weights(brightest)
    cuts = tuple(_cut(canvas, request.image, seen, parameters) for canvas in canvases)
    return Preparation(
        request.image,
        mask,
        canvases,
        cuts,
        is_all_white=bool((mask == 255).all()),
        brightest=int(brightest.item()),
        brightest_sent=int(request.mask.max()),
        image_sha256=request.image_sha256,
        mask_sha256=request.mask_sha256,
    )


def prepare_upload(upload: Upload, limits: CanvasLimits) -> Preparation:
    """Decodes, then does as :func:`prepare`."""
    return prepare(upload.decode(), limits)


def outline_upload(upload: Upload, limits: CanvasLimits) -> Outline:
    """Decodes both files whole, so that what is damaged is refused, and keeps what the queue needs to know."""
    request = upload.decode()
    _, canvases = _plan(request, limits)
    return Outline(request.image.size, request.image.alpha is not None, canvases)


def outline(preparation: Preparation) -> Outline:
    """Returns the same of a request whose pixels are here."""
    image = preparation.image
    return Outline(image.size, image.alpha is not None, preparation.canvases)


def _plan(request: InpaintRequest, limits: CanvasLimits) -> tuple[Pixels, tuple[Canvas, ...]]:
    parameters = request.parameters
    mask = masks.prepare(
        request.mask, invert=parameters.mask_invert, grow=parameters.mask_grow, blur=parameters.mask_blur
    )
    canvases = geometry.plan(mask, region=parameters.region, padding=parameters.padding, limits=limits)
    return mask, canvases


def _cut(canvas: Canvas, image: Picture, mask: Pixels, parameters: InpaintParameters) -> CanvasPixels:
    """The pixels of one canvas, which are sRGB's, as in training."""
    pixels = colours.to_srgb(geometry.cut(canvas, image.rgb), image.icc_profile)
    canvas_mask = geometry.cut_mask(canvas, mask)
    if parameters.masked_content is MaskedContent.FILL and parameters.strength < 1:
        pixels = masks.fill_hole(pixels, canvas_mask)
    rim = None
    if canvas.scale < 1:
        hidden = masks.is_hole(mask[canvas.box.slices], parameters.soft_mask)
        kept, is_half_kept = geometry.cut_kept(canvas, image.rgb, hidden)
        rim = is_half_kept & masks.is_hole(canvas_mask, parameters.soft_mask)
        pixels = np.where(rim[..., None], colours.to_srgb(kept, image.icc_profile), pixels)
    return CanvasPixels(pixels, canvas_mask, rim)
