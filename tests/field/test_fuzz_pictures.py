"""Mutated files and masks: whatever comes, it is a picture within the bounds or a refusal, and what is kept is kept.

A few hundred cases; ``FUZZ_CASES=10000`` asks for more of each.
"""

import contextlib
import os
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sd_inpaint.errors import CallerError
from sd_inpaint.imaging import codecs, colours, geometry, masks
from sd_inpaint.imaging.geometry import CanvasLimits
from sd_inpaint.picture import Picture, Pixels
from sd_inpaint.schema import Region, SoftMask
from tests.field import pictures
from tests.field.pictures import colour_files, colourful, saved
from tests.field.turned import TURNED
from tests.support.uploads import SAMPLES, cmyk_profile, smooth

CASES: Final = int(os.environ.get("FUZZ_CASES", "120"))
MAX_PIXELS: Final = 50_000
fuzz = settings(deadline=None, max_examples=CASES)

_JPEG: Final = saved(colourful(), "JPEG")
_PNG: Final = saved(colourful())
FILES: Final = [
    *SAMPLES.values(),
    *colour_files().values(),
    *(turned.make(colourful(), 6) for turned in TURNED.values()),
    *pictures.png_damage_beside(_PNG).values(),
    *pictures.png_damage_inside(_PNG).values(),
    *(file for file in pictures.jpeg_damage_beside(_JPEG).values() if len(file) < 20_000),
    *pictures.jpeg_damage_inside(saved(colourful(), "JPEG", progressive=True)).values(),
    *pictures.webp_damage_beside(saved(colourful(), "WEBP", exif=pictures.exif_of(3))).values(),
    pictures.bmp_of(colourful()),
    pictures.jpeg_of_adobe_rgb(),
    saved(smooth().convert("CMYK"), "TIFF", icc_profile=cmyk_profile()),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A file of the corpus with up to six things wrong with it, most of them near its head."""
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(1, 6))):
        last = max(len(data) - 1, 0)
        at = draw(st.integers(0, last) | st.integers(0, min(last, 200)))
        length = draw(st.sampled_from([1, 2, 4, 30, 500]))
        match draw(st.integers(0, 5)):
            case 0:
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[max(at - length, 0) : at]
            case 4:
                data[at : at + 4] = draw(st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"]))
            case 5:
                del data[at + length :]
    return bytes(data)


@given(mutated())
@fuzz
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mutated_images(data: bytes) -> None:
    """A mutated file is refused in our own words, or a picture that comes back byte for byte where it is kept."""
    with contextlib.suppress(CallerError):
        picture = codecs.decode_image(data, max_pixels=MAX_PIXELS, keep_exif=True)
        assert picture.width * picture.height <= MAX_PIXELS
        assert picture.rgb.shape == (picture.height, picture.width, 3)
        assert picture.alpha is None or picture.alpha.shape == picture.rgb.shape[:2]
        painted = colours.from_srgb(255 - colours.to_srgb(picture.rgb, picture.icc_profile), picture.icc_profile)
        mask = np.zeros(picture.rgb.shape[:2], np.uint8)
        mask[: picture.height // 2] = 255
        back = codecs.decode_image(codecs.encode(masks.composite(picture, painted, mask)), max_pixels=MAX_PIXELS)
        assert np.array_equal(back.rgb[mask == 0], picture.rgb[mask == 0])
        assert np.array_equal(back.rgb[mask == 255], painted[mask == 255])
        assert back.icc_profile == picture.icc_profile


@given(mutated())
@fuzz
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mutated_masks(data: bytes) -> None:
    """A mutated file is refused as a mask, or one of its picture's size, by either way to read it."""
    with contextlib.suppress(CallerError):
        mask = codecs.decode_mask(data, max_pixels=MAX_PIXELS)
        assert mask.dtype == np.uint8
        assert mask.size <= MAX_PIXELS
        alpha = codecs.decode_mask_alpha(data, max_pixels=MAX_PIXELS)
        assert alpha is None or alpha.shape == mask.shape


@st.composite
def noisy_masks(draw: st.DrawFn) -> Pixels:
    """Masks as they come: boxes of any level on any ground, with the noise of lossy formats."""
    shape = draw(st.tuples(st.integers(1, 300), st.integers(1, 300)))
    mask = np.full(shape, draw(st.sampled_from([0, 0, 1, 3, 10, 11, 16, 255])), np.uint8)
    for _ in range(draw(st.integers(0, 4))):
        top, left = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
        height, width = draw(st.integers(1, 120)), draw(st.integers(1, 120))
        mask[top : top + height, left : left + width] = draw(st.sampled_from([255, 255, 254, 245, 128, 127, 50, 8, 0]))
    noise = draw(st.sampled_from([0, 0, 1, 6]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    return np.clip(mask + random.integers(-noise, noise + 1, shape), 0, 255).astype(np.uint8)


@given(
    noisy_masks(),
    st.sampled_from(Region),
    st.sampled_from(SoftMask),
    st.integers(-4, 4),
    st.floats(0, 6),
    st.booleans(),
)
@fuzz
def test_masks_through_everything(
    sent: Pixels, region: Region, soft_mask: SoftMask, grow: int, blur: float, is_inverted: bool
) -> None:
    """What can be seen of a mask lies in canvases, each of which has a hole; black is kept, and grey is monotone."""
    mask = masks.prepare(sent, invert=is_inverted, grow=grow, blur=blur)
    limits = CanvasLimits(native_size=64, stride=8, max_pixels=10**6)
    canvases = geometry.plan(mask, region=region, padding=None, limits=limits)
    seen = masks.visible(mask)
    assert bool(canvases) == bool(seen.any())
    covered = np.zeros(mask.shape, bool)
    rgb = np.full((*mask.shape, 3), 90, np.uint8)
    for canvas in canvases:
        covered[canvas.box.slices] = True
        assert masks.is_hole(geometry.cut_mask(canvas, seen), soft_mask).any()
        geometry.paste(canvas, np.full((canvas.height, canvas.width, 3), 250, np.uint8), rgb)
    assert covered[seen > 0].all()
    weights = masks.compositing_weights(mask) if soft_mask is SoftMask.STRENGTH else mask
    original = Picture(np.full_like(rgb, 90))
    result = masks.composite(original, rgb, weights).rgb[:, :, 0].astype(int)
    assert (result[mask == 0] == 90).all()
    assert (np.abs(result - 90)[mask <= masks.INVISIBLE_LEVELS] <= masks.INVISIBLE_LEVELS).all()
    inside = mask[covered], result[covered]
    order = np.argsort(inside[0], kind="stable")
    assert (np.diff(inside[1][order]) >= 0).all()
