"""What grey levels mean: the effective mask, the hole, and the blend of painted and original pixels."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sd_inpaint.imaging import masks
from sd_inpaint.picture import Flags, Picture, Pixels
from sd_inpaint.schema import SoftMask

quick = settings(deadline=None, max_examples=15)
sides = st.integers(1, 40)
shapes = st.tuples(sides, sides)
levels = st.sampled_from([0, 0, 0, 1, 100, 127, 128, 254, 255]) | st.integers(0, 255)


def grey(shape: tuple[int, int]) -> st.SearchStrategy[Pixels]:
    """Masks of that shape, mostly black and white."""
    return arrays.arrays(np.uint8, shape, elements=levels, fill=st.sampled_from([0, 255]))


@st.composite
def pictures(draw: st.DrawFn) -> tuple[Picture, Pixels, Pixels]:
    """An original with or without alpha, painted pixels, and a mask, all of one size."""
    shape = draw(shapes)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rgb, painted = random.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    alpha = random.choice([0, 1, 128, 254, 255], shape).astype(np.uint8) if draw(st.booleans()) else None
    return Picture(rgb, alpha, draw(st.sampled_from([None, b"profile"]))), painted, draw(grey(shape))


def disc(radius: int) -> Pixels:
    """All offsets within a radius, as a structuring element."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= radius * radius, np.uint8)


class TestPrepare:
    """The effective mask."""

    @given(shapes.flatmap(grey))
    @quick
    def test_nothing_asked_is_the_mask_itself(self, mask: Pixels) -> None:
        """Without invert, grow and blur the effective mask is the one that was sent."""
        assert np.array_equal(masks.prepare(mask), mask)

    @given(shapes.flatmap(grey), st.integers(0, 45))
    @quick
    def test_growing_takes_the_largest_level_within_a_disc(self, mask: Pixels, radius: int) -> None:
        """Growing a mask of any greys equals the exact dilation by a disc of that radius."""
        expected = cv2.dilate(mask, disc(radius), borderType=cv2.BORDER_CONSTANT, borderValue=0)
        assert np.array_equal(masks.prepare(mask, grow=radius), expected)

    @given(shapes.flatmap(grey), st.integers(1, 45))
    @quick
    def test_narrowing_takes_the_smallest_level_within_a_disc(self, mask: Pixels, radius: int) -> None:
        """Narrowing equals the exact erosion; the picture's own edge narrows nothing."""
        expected = cv2.erode(mask, disc(radius), borderType=cv2.BORDER_CONSTANT, borderValue=255)
        assert np.array_equal(masks.prepare(mask, grow=-radius), expected)

    @pytest.mark.parametrize("radius", [1, 5, 16, 256])
    def test_one_pixel_grows_to_a_round_spot(self, radius: int) -> None:
        """A single white pixel grows to all pixels at most that far away."""
        mask = np.zeros((601, 601), dtype=np.uint8)
        mask[300, 300] = 255
        y, x = np.mgrid[-300:301, -300:301]
        assert np.array_equal(masks.prepare(mask, grow=radius) == 255, x * x + y * y <= radius * radius)

    @given(shapes.flatmap(grey), st.integers(-5, 5), st.floats(0, 20))
    @quick
    def test_inversion_comes_first(self, mask: Pixels, radius: int, sigma: float) -> None:
        """Inverting equals sending the inverted mask, whatever else is asked."""
        inverted = masks.prepare(mask, invert=True, grow=radius, blur=sigma)
        assert np.array_equal(inverted, masks.prepare(255 - mask, grow=radius, blur=sigma))

    @pytest.mark.parametrize("level", [0, 255])
    @pytest.mark.parametrize("sigma", [0.1, 3, 40, 256])
    @pytest.mark.parametrize("shape", [(1, 1), (1, 300), (53, 70)], ids=str)
    def test_flat_masks_stay_flat(self, level: int, sigma: float, shape: tuple[int, int]) -> None:
        """An all-black or all-white mask is not changed by blurring, however wide or small."""
        flat = np.full(shape, level, dtype=np.uint8)
        assert np.array_equal(masks.prepare(flat, blur=sigma), flat)

    @pytest.mark.parametrize("sigma", [2, 8, 30, 100])
    def test_blurred_edge_is_half_grey_and_falls_evenly(self, sigma: float) -> None:
        """A straight edge becomes a Gaussian slope: half at the edge, one sigma out a sixth, and never rising."""
        mask = np.zeros((8, 2000), dtype=np.uint8)
        mask[:, :1000] = 255
        row = masks.prepare(mask, blur=sigma)[4].astype(int)
        assert (np.diff(row) <= 0).all()
        assert abs(row[999] + row[1000] - 255) <= 2
        # 1 - Φ(1) = 0.159; a level or two for 8 bits and for the smaller copy that wide blurs are computed on
        assert abs(row[1000 + sigma] - 0.159 * 255) <= 0.25 * 255 / sigma + 2
        assert not row[1000 + 4 * sigma :].any()

    @given(shapes.flatmap(lambda shape: st.tuples(grey(shape), grey(shape))), st.integers(-6, 6), st.floats(0, 30))
    @quick
    def test_more_white_never_gives_less(self, pair: tuple[Pixels, Pixels], radius: int, sigma: float) -> None:
        """A mask that is nowhere darker has an effective mask that is nowhere darker."""
        lower, higher = np.minimum(*pair), np.maximum(*pair)
        one, other = (masks.prepare(mask, grow=radius, blur=sigma) for mask in (lower, higher))
        assert (one <= other).all()

    @given(shapes.flatmap(grey), st.booleans(), st.integers(-9, 9), st.floats(0, 20))
    @quick
    def test_input_is_left_alone(self, mask: Pixels, invert: bool, radius: int, sigma: float) -> None:
        """The mask that was sent is not written to."""
        before = mask.copy()
        result = masks.prepare(mask, invert=invert, grow=radius, blur=sigma)
        assert np.array_equal(mask, before)
        assert result.shape == mask.shape
        assert result.dtype == np.uint8


class TestHole:
    """What the model sees as missing."""

    def test_levels_from_half_grey_are_hole(self) -> None:
        """Levels from 128 on are hole."""
        assert masks.is_hole(np.array([[0, 127, 128, 255]], dtype=np.uint8)).tolist() == [[False, False, True, True]]

    @given(shapes.flatmap(lambda shape: arrays.arrays(np.bool_, shape)), st.integers(1, 16))
    @quick
    def test_cell_is_hole_where_any_pixel_is(self, hole: Flags, stride: int) -> None:
        """A latent cell is hole exactly where one of its pixels is, at incomplete edges too."""
        cells = masks.latent_hole(hole, stride)
        assert cells.shape == (-(-hole.shape[0] // stride), -(-hole.shape[1] // stride))
        for row, column in np.ndindex(*cells.shape):
            block = hole[row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
            assert cells[row, column] == block.any()

    def test_reveal_fades_in_next_to_untouched_pixels_only(self) -> None:
        """Weights for strengths keep 0 at 0, never fall, and are full from a fifth of full strength on."""
        weights = masks.compositing_weights(np.arange(256, dtype=np.uint8)[None])[0].astype(int)
        assert weights[0] == 0
        assert (np.diff(weights) >= 0).all()
        assert (weights[51:] == 255).all()


class TestFillHole:
    """Colours of the surroundings in the hole."""

    def test_continues_what_is_around(self) -> None:
        """A plain picture fills its hole with itself, a ramp with values between; what was in the hole is forgotten."""
        ramp = np.repeat(np.linspace(40, 200, 64, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
        mask = np.zeros((64, 64), np.uint8)
        mask[16:48, 16:48] = 255
        spoilt = np.where(mask[:, :, None] > 0, np.uint8(255), ramp)
        filled = masks.fill_hole(spoilt, mask)
        assert np.abs(filled.astype(int) - ramp).max() <= 12
        assert np.array_equal(filled[mask == 0], ramp[mask == 0])

    def test_grey_is_neither_continued_nor_filled(self) -> None:
        """Only black is looked at, and only the hole is filled; without black there is nothing to continue."""
        picture = np.full((32, 32, 3), 90, np.uint8)
        mask = np.zeros((32, 32), np.uint8)
        mask[8:24, 8:24] = 100
        picture[8:24, 8:24] = 250
        mask[12:20, 12:20] = 255
        filled = masks.fill_hole(picture, mask)
        assert (filled[12:20, 12:20] == 90).all()
        assert (filled[8:12, 8:24] == 250).all()
        assert masks.fill_hole(picture, np.maximum(mask, 11)) is picture


class TestIsHole:
    """What the model sees as missing."""

    @pytest.mark.parametrize(
        ("greys", "soft_mask", "expected"),
        [
            ((0, 1, 127, 128, 255), SoftMask.BLEND, (0, 0, 0, 1, 1)),
            ((0, 10, 11, 127), SoftMask.BLEND, (0, 0, 1, 1)),
            ((0, 10, 11, 127, 128, 255), SoftMask.STRENGTH, (0, 0, 1, 1, 1, 1)),
            ((0, 1, 3, 10), SoftMask.BLEND, (0, 0, 0, 0)),
        ],
        ids=["half grey and up", "faint: all it visibly touches", "strength: all it visibly touches", "not to be seen"],
    )
    def test_one_rule(self, greys: tuple[int, ...], soft_mask: SoftMask, expected: tuple[int, ...]) -> None:
        """Blended, a pixel is hole from half grey on; a faint mask and a strength mask are hole where they touch."""
        assert masks.is_hole(np.array([greys], np.uint8), soft_mask).astype(int).tolist() == [list(expected)]


class TestVisible:
    """Levels that nobody sees."""

    def test_levels_beside_black_and_white_count_as_those(self) -> None:
        """Up to ten levels from black is black, up to ten from white is white; what lies between stays."""
        seen = masks.visible(np.arange(256, dtype=np.uint8)[None])[0]
        assert not seen[:11].any()
        assert (seen[245:] == 255).all()
        assert np.array_equal(seen[11:245], np.arange(11, 245))

    def test_what_is_not_seen_stays_faint_by_strength(self) -> None:
        """Weights for strengths reveal no level that nobody sees."""
        weights = masks.compositing_weights(np.arange(256, dtype=np.uint8)[None])[0].astype(int)
        assert np.array_equal(weights[:11], np.arange(11))
        assert (np.diff(weights) >= 0).all()


class TestMatchColours:
    """Taking the model's colour drift out."""

    @pytest.mark.parametrize("shape", [(64, 64), (53, 70), (200, 31), (1, 40), (3, 2)], ids=str)
    def test_even_drift_is_taken_out(self, shape: tuple[int, int]) -> None:
        """A canvas that came back in other colours is brought back to those of its surroundings, also in the hole."""
        original = np.full((*shape, 3), (90, 120, 200), np.uint8)
        painted = np.full((*shape, 3), (102, 113, 196), np.uint8)
        mask = np.zeros(shape, np.uint8)
        mask[shape[0] // 3 :, shape[1] // 3 :] = 255
        assert np.abs(masks.match_colours(painted, original, mask).astype(int) - original).max() <= 1

    def test_uneven_drift_is_met_at_the_border(self) -> None:
        """A drift that differs from side to side leaves no edge anywhere round the hole."""
        y, x = np.mgrid[0:120, 0:160]
        drift = np.dstack((x / 4 - 20, 8 - y / 6, np.full_like(x, 5)))
        original = np.full((120, 160, 3), 128, np.uint8)
        painted = (original + drift + 0.5).astype(np.uint8)
        mask = np.zeros((120, 160), np.uint8)
        cv2.circle(mask, (80, 60), 30, 255, -1)
        matched = masks.match_colours(painted, original, mask).astype(int)
        border = (cv2.dilate(mask, disc(2)) > 0) & (cv2.erode(mask, disc(2)) == 0)
        assert np.abs(matched - original)[border].max() <= 2
        assert np.abs(painted.astype(int) - original)[border].max() >= 6

    def test_drift_that_turns_within_pixels_is_met_at_the_border(self) -> None:
        """Of a drift that turns along the border every eight pixels, most is gone in the hole's first row."""
        x = np.arange(128)
        drift = np.rint(12 * np.sin(2 * np.pi * x / 16))
        original = np.full((96, 128, 3), 128, np.uint8)
        painted = (original + drift[:, None]).astype(np.uint8)
        mask = np.zeros((96, 128), np.uint8)
        mask[32:] = 255
        left = np.abs(masks.match_colours(painted, original, mask)[32].astype(int) - 128).mean()
        # 0.37 of it is left; averages of ever larger blocks alone leave 0.56.
        assert left <= 0.45 * np.abs(drift).mean()

    @given(st.integers(0, 2**32), shapes, st.data())
    @quick
    def test_what_was_painted_has_no_influence(self, seed: int, shape: tuple[int, int], data: st.DataObject) -> None:
        """The correction is that of the surroundings, whatever is in the hole; it is small; and the inputs stay."""
        random = np.random.default_rng(seed)
        original, one, other = random.integers(64, 192, (3, *shape, 3), dtype=np.uint8)
        mask = data.draw(grey(shape))
        other[mask <= masks.INVISIBLE_LEVELS] = one[mask <= masks.INVISIBLE_LEVELS]
        before = one.copy()
        first, second = (masks.match_colours(canvas, original, mask).astype(int) - canvas for canvas in (one, other))
        # A sum that lies between two levels, as float32 has it, is rounded up under one colour and down under another.
        assert np.abs(first - second).max() <= 1
        assert np.abs(first).max() <= 32
        assert np.array_equal(one, before)

    @given(pictures())
    @quick
    def test_no_drift_no_change(self, case: tuple[Picture, Pixels, Pixels]) -> None:
        """Where the model left the surroundings as they were, or there are none, the painted pixels stay."""
        original, painted, mask = case
        pasted = np.where(mask[:, :, None] > masks.INVISIBLE_LEVELS, painted, original.rgb)
        assert np.array_equal(masks.match_colours(pasted, original.rgb, mask), pasted)
        assert np.array_equal(masks.match_colours(painted, original.rgb, np.maximum(mask, 11)), painted)


class TestComposite:
    """Painted over original."""

    @given(pictures())
    @quick
    def test_black_keeps_every_byte(self, case: tuple[Picture, Pixels, Pixels]) -> None:
        """Where the mask is 0, colour and alpha are the original's, byte for byte; size and profile always are."""
        original, painted, mask = case
        result = masks.composite(original, painted, mask)
        assert result.size == original.size
        assert result.icc_profile == original.icc_profile
        assert np.array_equal(result.rgb[mask == 0], original.rgb[mask == 0])
        assert (result.alpha is None) == (original.alpha is None)
        if result.alpha is not None and original.alpha is not None:
            assert np.array_equal(result.alpha[mask == 0], original.alpha[mask == 0])

    @given(pictures())
    @quick
    def test_white_is_the_painted_pixel_and_opaque(self, case: tuple[Picture, Pixels, Pixels]) -> None:
        """Where the mask is 255, the colour is exactly the painted one, and nothing shines through."""
        original, painted, mask = case
        result = masks.composite(original, painted, mask)
        assert np.array_equal(result.rgb[mask == 255], painted[mask == 255])
        if result.alpha is not None:
            assert (result.alpha[mask == 255] == 255).all()

    @given(pictures())
    @quick
    def test_grey_is_the_nearest_level_to_the_straight_line(self, case: tuple[Picture, Pixels, Pixels]) -> None:
        """Opaque pixels lie on the line between original and painted, rounded to nearest; so does every alpha."""
        original, painted, mask = case
        result = masks.composite(original, painted, mask)
        part = mask[:, :, None] / 255
        exact = original.rgb * (1 - part) + painted * part
        if original.alpha is None:
            opaque = np.ones(mask.shape, dtype=bool)
        else:
            opaque = original.alpha == 255
            alpha = original.alpha + (255 - original.alpha.astype(float)) * mask / 255
            assert result.alpha is not None
            assert np.abs(result.alpha - alpha).max() <= 0.5 + 1e-9
        assert np.abs(result.rgb - exact)[opaque].max(initial=0) <= 0.5 + 1e-9

    @pytest.mark.parametrize("alpha", [None, 0, 1, 60, 254, 255])
    def test_grey_is_monotone(self, alpha: int | None) -> None:
        """Over all 256 greys, no step of the mask is a step the other way in colour or alpha."""
        values = np.array([0, 1, 77, 128, 254, 255], dtype=np.uint8)
        below, above = np.repeat(values, 6), np.tile(values, 6)
        rgb = np.repeat(below[:, None, None], 256, axis=1).repeat(3, axis=2)
        painted = np.repeat(above[:, None, None], 256, axis=1).repeat(3, axis=2)
        mask = np.tile(np.arange(256, dtype=np.uint8), (36, 1))
        opacity = None if alpha is None else np.full(mask.shape, alpha, dtype=np.uint8)
        result = masks.composite(Picture(rgb, opacity), painted, mask)
        # at mask 0 a wholly transparent pixel keeps a colour that nobody sees, so the line starts at 1
        start = 1 if alpha == 0 else 0
        steps = np.diff(result.rgb.astype(int), axis=1)[:, start:]
        rising = (above >= below)[:, None, None]
        assert (np.where(rising, steps, -steps) >= 0).all()
        if result.alpha is not None:
            assert (np.diff(result.alpha.astype(int), axis=1) >= 0).all()

    def test_invisible_colour_leaves_no_fringe(self) -> None:
        """Painting half over a transparent pixel shows the painted colour, not a mix with one that was never seen."""
        transparent = Picture(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8))
        red = np.array([[[255, 0, 0]]], dtype=np.uint8)
        result = masks.composite(transparent, red, np.full((1, 1), 128, np.uint8))
        assert result.rgb.tolist() == [[[255, 0, 0]]]
        assert result.alpha is not None
        assert result.alpha.tolist() == [[128]]

    @given(pictures())
    @quick
    def test_translucent_colour_counts_by_its_opacity(self, case: tuple[Picture, Pixels, Pixels]) -> None:
        """Under alpha the blend is that of painting over: each colour weighs as much as is seen of it."""
        original, painted, mask = case
        alpha = np.full(mask.shape, 255, np.uint8) if original.alpha is None else original.alpha
        above = mask[:, :, None] / 255
        below = alpha[:, :, None] / 255 * (1 - above)
        total = np.where(above + below > 0, above + below, 1)
        exact = (original.rgb * below + painted * above) / total
        rgb = masks.composite(original, painted, mask).rgb
        assert np.abs(rgb - exact)[mask > 0].max(initial=0) <= 0.5 + 1e-9

    @given(pictures())
    @quick
    def test_arrays_are_own(self, case: tuple[Picture, Pixels, Pixels]) -> None:
        """The result shares no memory with its inputs, which stay as they were."""
        original, painted, mask = case
        before = original.rgb.copy(), painted.copy(), mask.copy()
        result = masks.composite(original, painted, mask)
        result.rgb[:] = 7
        assert all(map(np.array_equal, before, (original.rgb, painted, mask)))
        if result.alpha is not None:
            assert not np.shares_memory(result.alpha, original.alpha)

    def test_bands_and_bounding_box_leave_no_trace(self) -> None:
        """A tall picture with a mask in the middle equals the plain formula in every row."""
        random = np.random.default_rng(5)
        rgb, painted = random.integers(0, 256, (2, 1000, 30, 3), dtype=np.uint8)
        mask = np.zeros((1000, 30), dtype=np.uint8)
        mask[100:900, 3:27] = random.integers(0, 256, (800, 24))
        result = masks.composite(Picture(rgb), painted, mask)
        part = mask[:, :, None].astype(int)
        assert np.array_equal(result.rgb, (rgb * (255 - part) + painted * part + 127) // 255)
