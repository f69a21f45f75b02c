"""Profiles that are written here, as lcms reads them."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from sd_inpaint.imaging import icc

P3 = ((0.3127, 0.3290), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060))


def to_srgb(profile: bytes, *colours: tuple[int, int, int]) -> np.ndarray:
    """What lcms makes of colours of a profile."""
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    transform = ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    return np.asarray(transform.apply(Image.fromarray(np.uint8([colours])))).astype(int)[0]


def test_srgb_is_that_of_lcms() -> None:
    """The profile of sRGB changes no colour by more than a level."""
    colours = [(red, green, blue) for red in range(0, 256, 51) for green in (0, 90, 255) for blue in (0, 128, 255)]
    shown = to_srgb(icc.rgb_profile(icc.SRGB_PRIMARIES, [icc.srgb_curve()]), *colours)
    assert np.abs(shown - colours).max() <= 1


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2, 2.8])
def test_gammas(gamma: float) -> None:
    """Greys of a gamma are as bright as it says."""
    levels = np.arange(0, 256, 15)
    light = (levels / 255) ** gamma
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    shown = to_srgb(icc.rgb_profile(P3, [icc.gamma_curve(gamma)]), *((n, n, n) for n in levels.tolist()))
    assert np.abs(shown - expected[:, None]).max() <= 1.5


def test_primaries() -> None:
    """Display P3's (200, 100, 100) is the colour that its primaries make it, and white stays white."""
    shown = to_srgb(icc.rgb_profile(P3, [icc.srgb_curve()]), (200, 100, 100), (255, 255, 255))
    # By the matrix of CSS Color 4, 10.6: 1.2249, -0.2247, 0; -0.0420, 1.0419, 0; -0.0197, -0.0786, 1.0979.
    assert np.abs(shown - [(215, 93, 97), (255, 255, 255)]).max() <= 1


def test_hdr_has_its_numbers() -> None:
    """PQ and HLG carry the tag that readers who know HDR look for, and are white where SDR's white is."""
    for curve, white in ((icc.pq_curve(), 148), (icc.hlg_curve(), 192)):
        profile = icc.rgb_profile(icc.SRGB_PRIMARIES, [curve], cicp=(9, 16, 0, 1))
        assert icc.tag(profile, b"cicp") == b"cicp\0\0\0\0\x09\x10\0\1"
        below, at = to_srgb(profile, (white - 20,) * 3, (white,) * 3)
        assert at.min() >= 254
        assert below.max() < 240


@pytest.mark.parametrize(
    "chromaticities",
    [((0.0, 0.0),) * 4, ((0.3, 0.3),) * 4, ((0.3127, 0.3290), (9.0, 0.3), (0.3, 0.6), (0.15, 0.06))],
    ids=["zeros", "one point", "out of range"],
)
def test_numbers_that_are_no_colours(chromaticities: icc.Chromaticities) -> None:
    """Chromaticities between which no colour lies make no profile."""
    with pytest.raises(ValueError, match="chromaticities"):
        icc.rgb_profile(chromaticities, [icc.srgb_curve()])


def test_tags_of_what_is_no_profile() -> None:
    """A tag beyond the profile's end, or of no profile at all, is none."""
    profile = icc.rgb_profile(P3, [icc.srgb_curve()])
    assert icc.tag(profile, b"rTRC") == icc.srgb_curve()
    assert icc.tag(profile[:-50], b"bTRC") is None
    assert icc.tag(profile, b"none") is None
    assert icc.tag(b"", b"rTRC") is None
