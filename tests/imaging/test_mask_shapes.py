"""Masks of shapes, colours and differences, and room around a picture."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd_inpaint.imaging import mask_shapes
from sd_inpaint.imaging.codecs import decode_mask
from sd_inpaint.imaging.extension import Sides, extend, sides_for_ratio
from sd_inpaint.imaging.masks import is_hole
from sd_inpaint.picture import Picture
from tests.support.pictures import photo

SIZE = (70, 53)


def picture(alpha: Any = None) -> Picture:
    """The tests' photo."""
    return Picture(np.asarray(photo(SIZE)), alpha)


def test_a_box_is_its_pixels() -> None:
    """Right and lower edge are exclusive; what lies outside the picture is not there."""
    mask = mask_shapes.box(SIZE, (10, 20, 30, 40))
    assert mask.shape == (53, 70)
    assert (mask[20:40, 10:30] == 255).all()
    assert mask.sum() == 20 * 20 * 255
    assert mask_shapes.box(SIZE, (-5, -5, 500, 500)).all()
    assert not mask_shapes.box(SIZE, (100, 100, 200, 200)).any()


@given(st.floats(1, 60), st.floats(1, 45), st.floats(-10, 40), st.floats(-10, 30))
def test_an_ellipse_lies_in_its_box(width: float, height: float, left: float, top: float) -> None:
    """It never leaves its box, and has about its area where it is whole."""
    corners = (left, top, left + width, top + height)
    mask, box = mask_shapes.ellipse(SIZE, corners), mask_shapes.box(SIZE, corners)
    assert (mask <= box).all()
    if left >= 0 and top >= 0 and left + width <= 70 and top + height <= 53 and min(width, height) > 10:
        assert abs(int((mask > 0).sum()) - np.pi / 4 * width * height) <= width + height


def test_a_polygon_is_its_inside() -> None:
    """A rectangle as a polygon is the same rectangle, but for its border; a triangle is half of it."""
    rectangle = mask_shapes.polygon(SIZE, [(10, 20), (30, 20), (30, 40), (10, 40)])
    assert (rectangle[21:39, 11:29] == 255).all()
    assert (rectangle <= mask_shapes.box(SIZE, (9, 19, 31, 41))).all()
    triangle = mask_shapes.polygon(SIZE, [(10, 20), (30, 20), (10, 40)])
    assert abs(int((triangle > 0).sum()) - 200) <= 40


def test_transparency_is_taken_in_proportion() -> None:
    """What is half transparent is half white; a picture without alpha has none."""
    alpha = np.full((53, 70), 255, np.uint8)
    alpha[:10] = 100
    mask = mask_shapes.transparent(picture(alpha))
    assert set(np.unique(mask[:10])) == {155}
    assert not mask[10:].any()
    assert not mask_shapes.transparent(picture()).any()


def test_a_colour_counts_within_its_tolerance() -> None:
    """Each channel may differ by so many levels, and by no more."""
    rgb = np.zeros((1, 3, 3), np.uint8)
    rgb[0] = [(0, 255, 0), (16, 239, 0), (17, 255, 0)]
    assert mask_shapes.near_colour(Picture(rgb), (0, 255, 0), 16).tolist() == [[255, 255, 0]]


def test_a_difference_is_where_two_pictures_differ() -> None:
    """A change of more levels than the tolerance is white, in colour or in opacity; equal pictures have none."""
    rgb = np.asarray(photo(SIZE)).copy()
    rgb[5, 6] = 255 - rgb[5, 6]
    rgb[7, 8, 0] ^= 1
    mask = mask_shapes.difference(picture(), Picture(rgb), 16)
    assert np.argwhere(mask).tolist() == [[5, 6]]
    assert not mask_shapes.difference(picture(), picture(), 0).any()
    alpha = np.full((53, 70), 255, np.uint8)
    alpha[9, 9] = 0
    assert np.argwhere(mask_shapes.difference(picture(), picture(alpha), 16)).tolist() == [[9, 9]]


def test_a_mask_is_read_as_it_was_written() -> None:
    """Every level comes back."""
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (decode_mask(mask_shapes.encode_mask(mask), max_pixels=256) == mask).all()


class TestExtension:
    """Room around a picture."""

    @pytest.mark.parametrize("overlap", [0, 1, 8, 500])
    def test_the_picture_stays_and_the_room_is_white(self, overlap: int) -> None:
        """The picture's pixels are where they were; the mask is white outside of them and fades to black inside."""
        larger, mask = extend(picture(), Sides(left=9, top=0, right=20, bottom=3), overlap, max_pixels=10**6)
        assert larger.size == (99, 56)
        assert (larger.rgb[:53, 9:79] == picture().rgb).all()
        assert (mask[:, :9] == 255).all()
        assert (mask[:, 79:] == 255).all()
        assert (mask[53:] == 255).all()
        inner = mask[:53, 9:79]
        assert inner.max() < 255 if overlap else not inner.any()
        if overlap == 8:
            middle = inner[20].astype(int)
            assert (np.diff(middle[:9]) < 0).all()
            assert not middle[8:62].any()
            assert (np.diff(middle[61:]) > 0).all()
            assert not is_hole(mask)[0:40, 9 + 8 : 79 - 8].any()

    def test_room_continues_the_colours_and_is_opaque(self) -> None:
        """A plain picture's room has its colour; a translucent one is opaque there, and keeps its own alpha."""
        plain = Picture(np.full((20, 20, 3), 77, np.uint8), np.full((20, 20), 9, np.uint8))
        larger, _ = extend(plain, Sides(right=30), 4, max_pixels=10**6)
        assert np.abs(larger.rgb.astype(int) - 77).max() <= 1
        assert larger.alpha is not None
        assert (larger.alpha[:, 20:] == 255).all()
        assert (larger.alpha[:, :20] == 9).all()

    @given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0.2, 5))
    def test_a_ratio_only_adds(self, width: int, height: int, ratio: float) -> None:
        """The larger picture has the ratio to a pixel, and room on one pair of sides at most."""
        sides = sides_for_ratio((width, height), ratio)
        assert min(sides.left, sides.top, sides.right, sides.bottom) >= 0
        across, down = width + sides.left + sides.right, height + sides.top + sides.bottom
        assert across == width or down == height
        assert abs(across - down * ratio) <= max(1, ratio)
        assert abs(sides.left - sides.right) <= 1
        assert abs(sides.top - sides.bottom) <= 1
