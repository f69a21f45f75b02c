"""Grey levels of a mask: which pixels are hole, which are blended, and how much.

A mask is (H, W) uint8 of the picture's size: 255 repaints, 0 keeps, what lies between blends in proportion. ``prepare``
makes the *effective* mask of the one that was sent, and only that one counts from there on: where it is 0, the result
is the input, byte for byte.
"""

from typing import Final

import cv2
import numpy as np

from sd_inpaint.picture import Flags, Floats, Picture, Pixels
from sd_inpaint.schema import SoftMask

HOLE_THRESHOLD: Final = 128
"""From this grey level on a pixel is hole for the model, which was trained on thresholded masks."""

INVISIBLE_LEVELS: Final = 10
"""Levels next to black and next to white that are nothing but black and white to a viewer.

A blend by 10 of 255 moves a channel by 4 % of the difference between the two pictures: by three levels where two
photographs meet, which differ by 67 on average, and never by more than ten. Further than two blocks from an edge, masks
saved as JPEG or WebP have less noise (docs/why.md).
"""

_FULLY_REVEALED: Final = 51
"""Grey level of a strength mask from which on only the painted picture is seen: a fifth of full strength.

Source: the default threshold of comfyui-inpaint-nodes' "Denoise to Compositing Mask".
"""

_MAX_DRIFT: Final = 32
"""Levels. A larger difference outside the mask is other content, not a drift of colour."""

_DRIFT_BLUR: Final = 0.7
"""Pixels, standard deviation. Twice as much leaves a seam, none carries single pixels into the hole (docs/why.md)."""

_RELAXATIONS: Final = 4
"""A level. Source: measured; eight take a thirtieth more off the border's step."""

_LEAST_WEIGHT: Final = 1e-30
"""Divisor where nothing is known, so that the quotient is 0."""

_BAND_ROWS: Final = 256
"""Rows worked on at once, so that 50-megapixel pictures need little more memory than their own."""

_BAND_PIXELS: Final = 1 << 20
"""Pixels that are grown at once: what a band needs stays in the processor's cache."""

_SMALL_SIGMA: Final = 8.0
"""A wider Gaussian is computed on a smaller copy, where it has this sigma; its own smoothness hides the difference."""


def prepare(mask: Pixels, *, invert: bool = False, grow: int = 0, blur: float = 0.0) -> Pixels:
    """Makes the effective mask: inverted, then grown, then blurred.

    Growing by r gives each pixel the largest grey level within r pixels of it; narrowing, the smallest. What lies
    outside the picture counts for neither. Blurring lets the white spread outwards *and* the black inwards: pixels that
    were 0 in the mask as sent may be blended, and a hole narrower than the blur is nowhere repainted in full.

    Args:
        mask: (H, W) uint8, 255 repaint, 0 keep.
        invert: Whether black is to be repainted instead of white.
        grow: Radius in pixels; negative narrows.
        blur: Sigma of a Gaussian in pixels; it reaches three times as far.

    Returns:
        (H, W) uint8; the mask itself where nothing was asked.
    """
    if invert:
        mask = 255 - mask
    if grow > 0:
        mask = _dilated(mask, grow)
    elif grow < 0:
        mask = _eroded(mask, -grow)
    if blur > 0:
        mask = _blurred(mask, blur)
    return mask


def visible(mask: Pixels) -> Pixels:
    """What of a mask decides where and on what the model works: levels that nobody sees are black, or white.

    The result is still blended by the mask itself.

    Args:
        mask: (H, W) uint8, the effective mask.

    Returns:
        (H, W) uint8: 0 up to ``INVISIBLE_LEVELS``, 255 from as many below white on, and the mask's own level between.
    """
    table = np.arange(256, dtype=np.uint8)
    table[: INVISIBLE_LEVELS + 1], table[255 - INVISIBLE_LEVELS :] = 0, 255
    return np.asarray(cv2.LUT(mask, table), dtype=np.uint8)


def is_hole(mask: Pixels, soft_mask: SoftMask = SoftMask.BLEND) -> Flags:
    """(H, W) bool: what the model sees as missing. It was trained on thresholded masks and never sees a grey.

    A blended mask is hole from ``HOLE_THRESHOLD`` on. A faint one, which nowhere gets there, would leave nothing to
    fill, so all that it visibly touches is hole. So is all that a strength mask visibly touches: its greys say how far
    each cell is denoised, and the latents see to that.
    """
    is_half_white = mask >= HOLE_THRESHOLD
    is_faint = not is_half_white.any()
    return mask > INVISIBLE_LEVELS if is_faint or soft_mask is SoftMask.STRENGTH else is_half_white


def compositing_weights(mask: Pixels) -> Pixels:
    """Compositing weights for a mask whose greys are denoising strengths.

    Pixels denoised a little already fit the input; blending them again would show both pictures. Only next
    to untouched pixels, up to a fifth of full strength, the painted picture is faded in. What nobody sees of the mask
    stays as faint as it is.

    Returns:
        (H, W) uint8, monotone in the mask, 0 where it is 0.
    """
    faded = np.minimum(mask, _FULLY_REVEALED) * (255 // _FULLY_REVEALED)
    return np.where(mask <= INVISIBLE_LEVELS, mask, faded)


def latent_hole(hole: Flags, stride: int) -> Flags:
    """Hole by latent cells: a cell that holds any hole pixel is hole.

    Nearest-neighbour, which diffusers uses, would miss pixels, and the cell grid would show as a seam.

    Args:
        hole: (H, W) bool; an incomplete cell at the right or lower edge counts as one.
        stride: Pixels a side of a latent cell.

    Returns:
        (ceil(H / stride), ceil(W / stride)) bool.
    """
    rows = np.arange(0, hole.shape[0], stride)
    columns = np.arange(0, hole.shape[1], stride)
    by_rows = np.logical_or.reduceat(hole, rows, axis=0)
    return np.logical_or.reduceat(by_rows, columns, axis=1)


def composite(original: Picture, painted: Pixels, mask: Pixels) -> Picture:
    """Lays the painted pixels over the original ones, in proportion to the mask.

    Where the mask is 0 every byte is the original's; where it is 255, the painted pixel's, opaque. Between, opacity and
    colour go linearly from one to the other, each rounded to the nearest level. Colours of a transparent original
    count by their opacity: no fringe of the colour that an invisible pixel happens to have.

    Args:
        original: The input picture.
        painted: (H, W, 3) uint8.
        mask: (H, W) uint8, the effective mask.

    Returns:
        A picture of the original's size, with its profile; with alpha where that has alpha.
    """
    rgb = original.rgb.copy()
    alpha = None if original.alpha is None else original.alpha.copy()
    left, top, width, height = cv2.boundingRect(mask)
    for start in range(top, top + height, _BAND_ROWS):
        band = np.s_[start : min(start + _BAND_ROWS, top + height), left : left + width]
        rgb[band] = _mixed(rgb[band], painted[band], mask[band][:, :, None])
        if alpha is not None:
            _mix_translucent(rgb[band], original.rgb[band], painted[band], alpha[band], mask[band])
            alpha[band] = _mixed(alpha[band], np.uint8(255), mask[band])
    return Picture(rgb, alpha, original.icc_profile, original.exif)


def fill_hole(picture: Pixels, mask: Pixels) -> Pixels:
    """Continues the colours around the hole smoothly into it.

    Args:
        picture: (H, W, 3) uint8.
        mask: (H, W) uint8; only what is visibly black is continued, only the hole (:func:`is_hole`) is filled.

    Returns:
        (H, W, 3) uint8; ``picture`` itself where the mask has no black.
    """
    known = (mask <= INVISIBLE_LEVELS).astype(np.float32)
    if not known.any():
        return picture
    filled = _smoothly_filled(picture * known[:, :, None], known)
    rounded: Pixels = np.clip(filled + 0.5, 0, 255).astype(np.uint8)
    return np.where(is_hole(mask)[:, :, None], rounded, picture)


def match_colours(painted: Pixels, original: Pixels, mask: Pixels) -> Pixels:
    """Takes the colour drift of model and VAE out of a painted canvas, so that no border shows at the mask.

    The drift is what the model changed where it was to change nothing: it is measured outside the mask only, and
    carried into the mask as smoothly as its border allows. What was painted inside has no influence on it, so an object
    of another colour keeps that colour, which Poisson blending would not let it.

    Args:
        painted: (H, W, 3) uint8, all that the model gave, also outside the mask.
        original: (H, W, 3) uint8, what it was given.
        mask: (H, W) uint8; only what is visibly black is measured.

    Returns:
        (H, W, 3) uint8, no channel moved by more than ``_MAX_DRIFT``; ``painted`` itself where the mask has no black.
    """
    known = (mask <= INVISIBLE_LEVELS).astype(np.float32)
    if not known.any():
        return painted
    drift = np.clip(original.astype(np.float32) - painted, -_MAX_DRIFT, _MAX_DRIFT)
    # One pixel's drift is as much fine detail that the autoencoder lost as colour; its neighbours' mean is colour.
    near = np.maximum(cv2.GaussianBlur(known, (0, 0), _DRIFT_BLUR), _LEAST_WEIGHT)
    drift = cv2.GaussianBlur(drift * known[:, :, None], (0, 0), _DRIFT_BLUR) / near[:, :, None]
    filled = _smoothly_filled(np.asarray(drift * known[:, :, None], dtype=np.float32), known)
    matched: Pixels = np.clip(painted + filled + 0.5, 0, 255).astype(np.uint8)
    return matched


def _smoothly_filled(weighted: Floats, weight: Floats) -> Floats:
    """(h, w, 3) values times weight, and (h, w) weight in [0, 1] → values everywhere.

    Where the weight is 0 they are averages of what is known nearby, from ever further away (Gortler et al., "The
    Lumigraph" (1996), 3.4, pull and push), relaxed towards those of their neighbours, so that they begin at the border
    with the very values that are known there.
    """
    levels = []
    while max(weight.shape) > 1:
        levels.append((weighted, weight))
        weighted, weight = _halved(weighted), _halved(weight)
    values = np.asarray(weighted / np.maximum(weight, _LEAST_WEIGHT)[:, :, None], dtype=np.float32)
    for weighted, weight in reversed(levels):
        unknown = (1 - weight)[:, :, None]
        values = weighted + _doubled(values, weight) * unknown
        for _ in range(_RELAXATIONS):
            values = weighted + cv2.blur(values, (3, 3), borderType=cv2.BORDER_REPLICATE) * unknown
    return np.asarray(values, dtype=np.float32)


def _halved(values: Floats) -> Floats:
    return np.asarray(cv2.pyrDown(values), dtype=np.float32)


def _doubled(values: Floats, like: Floats) -> Floats:
    return np.asarray(cv2.pyrUp(values, dstsize=like.shape[::-1]), dtype=np.float32)


def _mixed(below: Pixels, above: Pixels | np.uint8, mask: Pixels) -> Pixels:
    """(below * (255 - mask) + above * mask) / 255 rounded to nearest, in 16 bits."""
    weighted = below * (255 - mask).astype(np.uint16)
    weighted += above * mask.astype(np.uint16)
    weighted += 128
    # Exact for all values up to 255 * 255. Source: Blinn, "Three wrongs make a right" (1995).
    weighted += weighted >> 8
    weighted >>= 8
    return weighted.astype(np.uint8)


def _mix_translucent(rgb: Pixels, below: Pixels, above: Pixels, alpha: Pixels, mask: Pixels) -> None:
    """Writes the colour into ``rgb`` where an original that is not opaque is blended."""
    where = (mask > 0) & (mask < 255) & (alpha < 255)
    if not where.any():
        return
    weight_above = 255 * mask[where].astype(np.uint32)
    weight_below = alpha[where] * (255 - mask[where]).astype(np.uint32)
    total = (weight_above + weight_below)[:, None]
    weighted = below[where] * weight_below[:, None] + above[where] * weight_above[:, None]
    rgb[where] = ((weighted + total // 2) // total).astype(np.uint8)


def _dilated(mask: Pixels, radius: int) -> Pixels:
    """The maximum over a disc, exactly, also of grey masks.

    A disc is a stack of chords, and the maximum over a chord is that of two runs of a power of two: about 2 * radius
    maxima a pixel, where the direct way takes 3 * radius². Source: Urbach and Wilkinson, "Efficient 2-D grayscale
    morphological transformations with arbitrary flat structuring elements" (2008).

    Chords are clipped to the picture and rows are worked on in bands, so neither a long thin picture nor a large one
    needs more than a few times its own memory.
    """
    left, top, width, height = cv2.boundingRect(mask)
    result = np.zeros_like(mask)
    if width == 0:
        return result
    rows, columns = mask.shape
    first, last = max(left - radius, 0), min(left + width + radius, columns)
    # A chord that is wider than the picture is a chord that is as wide as the picture.
    margin = min(radius, columns - 1)
    halves = [(dy, min(int((radius * radius - dy * dy) ** 0.5), margin)) for dy in range(min(radius, rows - 1) + 1)]
    band_rows = max(1, _BAND_PIXELS // (last - first + 2 * margin))
    for start in range(top, top + height, band_rows):
        end = min(start + band_rows, top + height)
        band = mask[start:end, left : left + width]
        padding = (left - first + margin, last - left - width + margin)
        run, length = np.pad(band, ((0, 0), padding)), 1  # run[x] is the maximum over [x, x + length)
        for dy, half in reversed(halves):
            while 2 * length <= 2 * half + 1:
                run = np.maximum(run[:, :-length], run[:, length:])
                length *= 2
            one, other = margin - half, margin + half + 1 - length
            chord = np.maximum(run[:, one : one + last - first], run[:, other : other + last - first])
            for shift in {-dy, dy}:
                low, high = max(start + shift, 0), min(end + shift, rows)
                if low < high:
                    grown = result[low:high, first:last]
                    np.maximum(grown, chord[low - shift - start : high - shift - start], out=grown)
    return result


def _eroded(mask: Pixels, radius: int) -> Pixels:
    """The minimum over a disc: the complement's maximum, where the mask is not 0 anyway."""
    left, top, width, height = cv2.boundingRect(mask)
    # One row and column more on each side: a disc that reaches further out reaches those too.
    window = np.s_[max(top - 1, 0) : top + height + 1, max(left - 1, 0) : left + width + 1]
    result = np.zeros_like(mask)
    result[window] = 255 - _dilated(255 - mask[window], radius)
    return result


def _blurred(mask: Pixels, sigma: float) -> Pixels:
    """A Gaussian that ends at three sigma; the picture's edge goes on outwards as it is."""
    height, width = mask.shape
    factor = max(1, int(sigma / _SMALL_SIGMA))
    small_size = (-(-width // factor), -(-height // factor))
    small = mask if factor == 1 else cv2.resize(mask, small_size, interpolation=cv2.INTER_AREA)
    reach = 2 * int(np.ceil(3 * sigma / factor)) + 1
    soft = cv2.GaussianBlur(small, (reach, reach), sigma / factor, borderType=cv2.BORDER_REPLICATE)
    full = soft if factor == 1 else cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(full, dtype=np.uint8)
