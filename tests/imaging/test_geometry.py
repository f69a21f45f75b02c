"""Picture ↔ canvas: where the boxes lie, what they cost, and that nothing is lost on the way there and back."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sd_inpaint.errors import ImageTooLargeError
from sd_inpaint.imaging import geometry
from sd_inpaint.imaging.geometry import Box, Canvas, CanvasLimits
from sd_inpaint.imaging.masks import INVISIBLE_LEVELS
from sd_inpaint.picture import Pixels
from sd_inpaint.schema import Region

NATIVE = 512
STRIDE = 8
ROOMY = 4096 * 4096
quick = settings(deadline=None, max_examples=15)


def plan(
    mask: Pixels,
    region: Region = Region.AUTO,
    padding: int | None = None,
    native_size: int = NATIVE,
    stride: int = STRIDE,
    max_canvas_pixels: int = ROOMY,
) -> tuple[Canvas, ...]:
    """``geometry.plan`` for a model of 512 pixels with memory to spare."""
    return geometry.plan(
        mask,
        region=region,
        padding=padding,
        limits=CanvasLimits(native_size, stride, max_canvas_pixels),
    )


def black(width: int, height: int) -> Pixels:
    """A mask that keeps everything."""
    return np.zeros((height, width), dtype=np.uint8)


def with_holes(width: int, height: int, *boxes: tuple[int, int, int, int], grey: int = 255) -> Pixels:
    """A black mask with rectangles of one grey."""
    mask = black(width, height)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = grey
    return mask


def noise(width: int, height: int, channels: int = 3) -> Pixels:
    """A picture without any pattern, the same each time."""
    return np.random.default_rng(width * 7919 + height).integers(0, 256, (height, width, channels), dtype=np.uint8)


@st.composite
def masks(draw: st.DrawFn, longest: int = 4000, largest: int = 1_000_000) -> Pixels:
    """A mask of any shape up to ``largest`` pixels with a few rectangles of a few greys."""
    width = draw(st.integers(1, longest))
    height = draw(st.integers(1, max(1, min(longest, largest // width))))
    if draw(st.booleans()):
        width, height = height, width
    mask = black(width, height)
    for _ in range(draw(st.integers(1, 6))):
        left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
        if draw(st.booleans()):
            right, bottom = min(right, left + 20), min(bottom, top + 20)
        mask[top:bottom, left:right] = draw(st.sampled_from([1, 100, 128, 255]))
    return mask


models = st.sampled_from([(512, 8), (64, 8), (64, 4), (768, 8), (24, 4)])
paddings = st.none() | st.integers(0, 300)


class TestPlan:
    """Choosing canvases."""

    @given(masks(), st.sampled_from(Region), paddings, models, st.integers(4096, 2_000_000))
    @quick
    def test_every_plan_keeps_its_promises(
        self, mask: Pixels, region: Region, padding: int | None, model: tuple[int, int], bound: int
    ) -> None:
        """Boxes lie in the picture, apart, around all of the mask; canvases are whole cells, within the bound."""
        native_size, stride = model
        try:
            canvases = plan(mask, region, padding, native_size, stride, bound)
        except ImageTooLargeError:
            assert region is Region.FULL
            return
        covered = np.zeros(mask.shape, dtype=np.uint8)
        for canvas in canvases:
            box = canvas.box
            assert 0 <= box.left < box.right <= mask.shape[1]
            assert 0 <= box.top < box.bottom <= mask.shape[0]
            assert canvas.width % stride == canvas.height % stride == 0
            assert 0 <= canvas.width - canvas.inner_width < stride
            assert 0 <= canvas.height - canvas.inner_height < stride
            assert canvas.pixels <= bound
            assert (mask[box.slices] > INVISIBLE_LEVELS).any()
            covered[box.slices] += 1
        assert covered.max(initial=0) <= 1
        assert (covered[mask > INVISIBLE_LEVELS] == 1).all()

    @given(masks(), st.sampled_from([Region.AUTO, Region.MASK]), paddings, models)
    @quick
    def test_canvases_stay_near_the_native_size(
        self, mask: Pixels, region: Region, padding: int | None, model: tuple[int, int]
    ) -> None:
        """No canvas is larger than 1.5 native areas or two native sides, but for whole cells, whatever the picture."""
        native_size, stride = model
        for canvas in plan(mask, region, padding, native_size, stride):
            assert (canvas.inner_width - 1) * (canvas.inner_height - 1) <= 1.5 * native_size**2
            assert max(canvas.inner_width, canvas.inner_height) <= 2 * native_size

    @given(masks(), st.sampled_from(Region), models)
    @quick
    def test_nothing_is_distorted(self, mask: Pixels, region: Region, model: tuple[int, int]) -> None:
        """Both sides of a box are scaled alike, to the rounding of a pixel of the picture or of the canvas."""
        for canvas in plan(mask, region, None, *model):
            rounding = max(1, canvas.scale)
            assert abs(canvas.inner_width - max(1, canvas.box.width * canvas.scale)) <= rounding
            assert abs(canvas.inner_height - max(1, canvas.box.height * canvas.scale)) <= rounding

    @pytest.mark.parametrize("region", Region)
    def test_empty_mask_needs_no_canvas(self, region: Region) -> None:
        """An all-black mask has an empty plan in every region."""
        assert plan(black(3000, 200), region) == ()

    @pytest.mark.parametrize(
        ("width", "height", "expected"),
        [
            pytest.param(512, 512, "0,0,512,512@1->512x512", id="native"),
            pytest.param(640, 480, "0,0,640,480@1->640x480", id="camera"),
            pytest.param(768, 512, "0,0,768,512@1->768x512", id="just-near"),
            pytest.param(500, 375, "0,0,500,375@1->504x376", id="padded"),
            pytest.param(1024, 256, "0,0,1024,256@1->1024x256", id="two-sides-long"),
            pytest.param(70, 53, "0,0,70,53@8.4->592x448", id="small-is-scaled-up"),
            pytest.param(1, 1, "0,0,1,1@512->512x512", id="one-pixel"),
            pytest.param(1024, 100, "0,0,1024,100@1->1024x104", id="long-enough-already"),
        ],
    )
    def test_picture_near_native_size_is_one_canvas(self, width: int, height: int, expected: str) -> None:
        """A picture that the model takes as it is, or smaller, is painted whole, wherever its hole is."""
        (canvas,) = plan(with_holes(width, height, (0, 0, 1, 1)))
        assert canvas.describe() == expected

    @pytest.mark.parametrize(
        ("size", "hole", "expected"),
        [
            pytest.param((4000, 3000), (2000, 1000, 2300, 1300), "1894,894,2406,1406@1->512x512", id="middle"),
            pytest.param((4000, 3000), (0, 0, 300, 300), "0,0,512,512@1->512x512", id="corner"),
            pytest.param((4000, 3000), (3990, 2990, 4000, 3000), "3488,2488,4000,3000@1->512x512", id="other-corner"),
            pytest.param((3000, 200), (1000, 0, 1100, 100), "790,0,1310,200@1.6->832x320", id="strip"),
            pytest.param((1, 4000), (0, 2000, 1, 2010), "0,1749,1,2261@2->8x1024", id="thread"),
            pytest.param((4000, 3000), (0, 0, 4000, 3000), "0,0,4000,3000@0.181->728x544", id="all"),
            pytest.param((4000, 3000), (500, 1500, 3500, 1510), "123,494,3876,2515@0.2217->832x448", id="wire"),
        ],
    )
    def test_larger_picture_is_painted_around_its_hole(
        self, size: tuple[int, int], hole: tuple[int, int, int, int], expected: str
    ) -> None:
        """Of a large picture the model sees the hole with its surroundings, near the native size."""
        (canvas,) = plan(with_holes(*size, hole))
        assert canvas.describe() == expected

    def test_small_hole_costs_a_native_picture_whatever_the_photo(self) -> None:
        """A 300-pixel hole in 12 megapixels costs exactly what a picture of the native size does."""
        (canvas,) = plan(with_holes(4000, 3000, (1200, 1700, 1500, 2000)))
        assert canvas.pixels == NATIVE**2
        assert canvas.scale == 1

    def test_mask_region_crops_a_native_picture_and_enlarges_it(self) -> None:
        """``region=mask`` gives a small face the model's whole attention, also in a picture of the native size."""
        mask = with_holes(512, 512, (200, 200, 260, 260))
        (canvas,) = plan(mask, Region.MASK)
        assert canvas.box == Box(136, 136, 324, 324)
        assert canvas.width == canvas.height == 512
        assert plan(mask, Region.AUTO)[0].box == Box(0, 0, 512, 512)

    @pytest.mark.parametrize("padding", [0, 1, 32, 4096])
    def test_padding_is_exact(self, padding: int) -> None:
        """A padding that the caller chose is the context on each side, cut at the picture's edges only."""
        (canvas,) = plan(with_holes(4000, 3000, (100, 1000, 500, 1400)), padding=padding)
        box = Box(max(0, 100 - padding), max(0, 1000 - padding), min(4000, 500 + padding), min(3000, 1400 + padding))
        assert canvas.box == box

    def test_full_region_is_the_whole_picture_at_its_own_scale(self) -> None:
        """``region=full`` never resamples."""
        (canvas,) = plan(with_holes(3000, 200, (0, 0, 5, 5)), Region.FULL)
        assert canvas == Canvas(Box(0, 0, 3000, 200), 3000, 200, 3000, 200)

    def test_full_region_beyond_the_bound_is_refused_with_a_way_out(self) -> None:
        """A picture too large for the device is refused, by bound and with the region that would do."""
        with pytest.raises(ImageTooLargeError, match=r"4000x3000 .* at most 1000000. Use region=auto"):
            plan(with_holes(4000, 3000, (0, 0, 5, 5)), Region.FULL, max_canvas_pixels=1_000_000)

    def test_auto_region_obeys_a_bound_below_the_native_size(self) -> None:
        """On a small device even a native picture is painted, smaller."""
        (canvas,) = plan(with_holes(512, 512, (0, 0, 512, 512)), max_canvas_pixels=64 * 64)
        assert canvas.pixels <= 64 * 64
        assert canvas.box == Box(0, 0, 512, 512)

    def test_region_results_equal_full_results_where_the_region_is_the_picture(self) -> None:
        """A hole over all of a picture near the native size gives one and the same canvas in every region."""
        mask = with_holes(640, 480, (0, 0, 640, 480))
        assert plan(mask, Region.AUTO) == plan(mask, Region.FULL) == plan(mask, Region.MASK)


class TestGrid:
    """Canvas sides from a small set."""

    @given(st.integers(20, 2600), st.integers(20, 2600), st.sampled_from([Region.AUTO, Region.MASK]))
    @quick
    def test_hole_with_room_around_it_has_a_canvas_on_the_grid(self, width: int, height: int, region: Region) -> None:
        """Where the photo leaves room on all sides, both sides of a canvas are multiples of 64, so shapes are few."""
        (canvas,) = plan(with_holes(6000, 6000, (1500, 1500, 1500 + width, 1500 + height)), region)
        assert canvas.width % 64 == canvas.height % 64 == 0
        assert (canvas.inner_width, canvas.inner_height) == (canvas.width, canvas.height)

    @given(masks(), st.sampled_from([Region.AUTO, Region.MASK]), models)
    @quick
    def test_grid_costs_a_tenth_at_most(self, mask: Pixels, region: Region, model: tuple[int, int]) -> None:
        """One hole's canvas has at most a tenth more pixels than without the grid, at the same scale."""
        with mock.patch.object(geometry, "grid_step", return_value=1):
            free = plan(mask, region, None, *model)
        gridded = plan(mask, region, None, *model)
        if len(free) == len(gridded) == 1:
            assert gridded[0].pixels <= 1.1 * free[0].pixels
            assert gridded[0].scale == pytest.approx(free[0].scale, rel=0.02)

    @pytest.mark.parametrize("hole", [(0, 0, 560, 560), (5400, 5440, 6000, 6000), (2000, 2000, 2570, 2590)], ids=str)
    def test_hole_keeps_some_context(self, hole: tuple[int, int, int, int]) -> None:
        """What the grid takes from the surroundings leaves 32 pixels on each side, but at the picture's edges."""
        (canvas,) = plan(with_holes(6000, 6000, hole), Region.MASK)
        box, (left, top, right, bottom) = canvas.box, hole
        assert min(left - box.left, top - box.top) >= 32 or 0 in (left, top)
        assert min(box.right - right, box.bottom - bottom) >= 32 or 6000 in (right, bottom)

    def test_picture_without_room_is_not_padded(self) -> None:
        """A side of the canvas that shows the whole picture stays as it is: the grid never adds reflected pixels."""
        (canvas,) = plan(with_holes(600, 4000, (0, 2000, 600, 2300)))
        assert (canvas.box.width, canvas.inner_width) == (600, 600)
        assert canvas.height % 64 == 0

    def test_whole_pictures_and_chosen_paddings_are_exact(self) -> None:
        """Neither ``region=full`` nor a picture near the native size nor a caller's padding is moved to the grid."""
        assert plan(with_holes(1000, 700, (5, 5, 9, 9)), Region.FULL)[0].box == Box(0, 0, 1000, 700)
        assert plan(with_holes(600, 520, (5, 5, 9, 9)))[0].describe() == "0,0,600,520@1->600x520"
        assert plan(with_holes(4000, 4000, (900, 900, 1500, 1500)), padding=10)[0].box == Box(890, 890, 1510, 1510)

    def test_native_size_is_on_every_grid(self) -> None:
        """A model whose native size has no eighth of whole cells keeps its cells for a grid."""
        (canvas,) = plan(with_holes(400, 400, (190, 190, 210, 210)), native_size=100, stride=4)
        assert (canvas.width, canvas.height) == (100, 100)


class TestSeveralHoles:
    """Holes far apart."""

    def test_far_apart_holes_get_a_canvas_each(self) -> None:
        """Two small holes at opposite corners of a photo are two native canvases, not one of a shrunken photo."""
        canvases = plan(with_holes(4000, 3000, (100, 100, 140, 140), (3800, 2800, 3840, 2840)))
        assert [canvas.pixels for canvas in canvases] == [NATIVE**2, NATIVE**2]
        assert {canvas.scale for canvas in canvases} == {1}

    def test_small_details_apart_are_each_enlarged(self) -> None:
        """Two faces that would be enlarged alone are not joined into one canvas that could not enlarge them."""
        mask = with_holes(4000, 3000, (1000, 1000, 1060, 1060), (1300, 1000, 1360, 1060))
        canvases = plan(mask, Region.MASK)
        assert len(canvases) == 2
        assert min(canvas.scale for canvas in canvases) > 2

    def test_close_holes_share_a_canvas(self) -> None:
        """Two holes that one native canvas can hold are painted together."""
        canvases = plan(with_holes(4000, 3000, (1000, 1000, 1040, 1040), (1250, 1000, 1290, 1040)))
        assert [canvas.pixels for canvas in canvases] == [NATIVE**2]

    def test_holes_whose_surroundings_overlap_share_a_canvas(self) -> None:
        """Canvases never overlap: where surroundings would, the holes are joined."""
        canvases = plan(with_holes(4000, 3000, (1000, 1000, 1040, 1040), (1450, 1450, 1490, 1490)))
        assert len(canvases) == 1

    def test_dust_all_over_costs_few_canvases(self) -> None:
        """Hundreds of specks are gathered into at most eight canvases, which cover them all."""
        mask = black(4000, 3000)
        mask[np.random.default_rng(0).integers(0, 3000, 500), np.random.default_rng(1).integers(0, 4000, 500)] = 255
        canvases = plan(mask)
        assert 1 <= len(canvases) <= 8
        for canvas in canvases:
            mask[canvas.box.slices] = 0
        assert not mask.any()

    def test_a_dozen_holes_far_apart_share_eight_canvases(self) -> None:
        """More holes than canvases are joined with their neighbours, though each alone would cost less."""
        specks = [(x, y, x + 9, y + 9) for x in range(300, 4800, 1300) for y in range(300, 4000, 1300)]
        assert len(specks) == 12
        assert len(plan(with_holes(4800, 3600, *specks))) == 8

    def test_fewer_specks_than_canvases_stay_single(self) -> None:
        """Six specks far apart keep their own native canvases."""
        specks = [(x, y, x + 9, y + 9) for x in (300, 2000, 3600) for y in (300, 2600)]
        assert len(plan(with_holes(4000, 3000, *specks))) == 6

    def test_touching_holes_are_one(self) -> None:
        """A hole drawn with several strokes that touch at corners is one hole."""
        assert len(plan(with_holes(4000, 3000, (1000, 1000, 1100, 1100), (1100, 1100, 1200, 1200)))) == 1


class TestCutAndPaste:
    """From picture to canvas and back."""

    @given(masks(longest=1200, largest=90_000), st.sampled_from([1, 4, 8, 64]))
    @quick
    def test_paste_of_cut_is_the_picture_at_scale_one(self, mask: Pixels, stride: int) -> None:
        """What was cut out at scale 1 and pasted back unpainted leaves every byte as it was."""
        picture = noise(mask.shape[1], mask.shape[0])
        (canvas,) = plan(np.maximum(mask, 128), Region.FULL, stride=stride)
        copy = np.zeros_like(picture)
        part = geometry.cut(canvas, picture)
        assert part.shape == (canvas.height, canvas.width, 3)
        geometry.paste(canvas, part, copy)
        assert np.array_equal(copy, picture)

    @given(masks(largest=200_000), st.sampled_from(Region), paddings, models)
    @quick
    def test_shapes_and_surroundings(
        self, mask: Pixels, region: Region, padding: int | None, model: tuple[int, int]
    ) -> None:
        """Cuts have the canvas's size, and pasting changes nothing outside the box."""
        picture = noise(mask.shape[1], mask.shape[0])
        for canvas in plan(mask, region, padding, *model):
            assert geometry.cut(canvas, picture).shape == (canvas.height, canvas.width, 3)
            assert geometry.cut_mask(canvas, mask).shape == (canvas.height, canvas.width)
            copy = picture.copy()
            geometry.paste(canvas, np.zeros((canvas.height, canvas.width, 3), dtype=np.uint8), copy)
            assert not copy[canvas.box.slices].any()
            copy[canvas.box.slices] = picture[canvas.box.slices]
            assert np.array_equal(copy, picture)

    @given(masks(largest=200_000), st.sampled_from([Region.AUTO, Region.MASK]), paddings, models)
    @quick
    def test_no_hole_pixel_is_lost_in_the_cut_mask(
        self, mask: Pixels, region: Region, padding: int | None, model: tuple[int, int]
    ) -> None:
        """Each picture pixel's grey level is reached by every canvas pixel that touches it, at any scale."""
        for canvas in plan(mask, region, padding, *model):
            part, cut = mask[canvas.box.slices], geometry.cut_mask(canvas, mask)
            rows = (np.arange(part.shape[0]) * 2 + 1) * canvas.inner_height // (2 * part.shape[0])
            columns = (np.arange(part.shape[1]) * 2 + 1) * canvas.inner_width // (2 * part.shape[1])
            assert (cut[rows][:, columns] >= part).all()
            assert cut.max() == part.max()
            assert set(np.unique(cut)) <= set(np.unique(part))

    @pytest.mark.parametrize("scaled", [(100, 80), (640, 512), (37, 11)], ids=["down", "up", "uneven"])
    @pytest.mark.parametrize("axis", [0, 1])
    def test_one_pixel_line_stays_a_line(self, scaled: tuple[int, int], axis: int) -> None:
        """A white line of one pixel is unbroken and white on the canvas."""
        mask = black(320, 256)
        mask[(100, slice(None)) if axis == 0 else (slice(None), 100)] = 255
        canvas = Canvas(Box(0, 0, 320, 256), *scaled, *scaled)
        cut = geometry.cut_mask(canvas, mask)
        assert (cut.max(axis=axis) == 255).all()
        assert not cut.min(axis=axis).any()

    @pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (70, 53), (3000, 200), (3, 2)], ids=str)
    @pytest.mark.parametrize("region", Region)
    def test_odd_sizes_work(self, size: tuple[int, int], region: Region) -> None:
        """Pictures of one pixel, one column and other odd sizes go to a canvas of sensible size and back."""
        picture = noise(*size)
        mask = with_holes(*size, (0, 0, 1, 1))
        (canvas,) = plan(mask, region)
        assert canvas.pixels <= max(1.6 * NATIVE**2, 3000 * 200)
        geometry.paste(canvas, geometry.cut(canvas, picture), picture)
        assert geometry.cut_mask(canvas, mask)[0, 0] == 255

    def test_padding_is_a_reflection_of_picture_and_mask_alike(self) -> None:
        """What the model sees beyond the edge is the mirrored picture, with the mirrored hole over it."""
        picture, mask = noise(70, 53), with_holes(70, 53, (60, 0, 70, 53))
        (canvas,) = plan(mask, Region.FULL)
        cut, hole = geometry.cut(canvas, picture), geometry.cut_mask(canvas, mask)
        assert (canvas.width, canvas.height) == (72, 56)
        assert np.array_equal(cut[:53, 70:72], picture[:, 68:66:-1])
        assert np.array_equal(cut[53:, :70], picture[51:48:-1])
        assert (hole[:, 60:] == 255).all()

    def test_cut_is_own_and_writable(self) -> None:
        """Writing on a canvas leaves the picture as it was, also at scale 1 without padding."""
        picture = noise(64, 64)
        canvas = Canvas(Box(0, 0, 64, 64), 64, 64, 64, 64)
        geometry.cut(canvas, picture)[:] = 0
        assert np.array_equal(picture, noise(64, 64))

    @pytest.mark.parametrize("scale", [0.25, 0.6, 1.7, 4], ids=str)
    def test_smooth_pictures_survive_scaling(self, scale: float) -> None:
        """A smooth picture comes back within two levels, unmoved, from smaller and larger canvases."""
        y, x = np.mgrid[0:240, 0:320]
        smooth = np.dstack((x * 0.7, y * 0.9, 128 + 100 * np.sin(x / 40) * np.cos(y / 40))).astype(np.uint8)
        width, height = round(320 * scale), round(240 * scale)
        canvas = Canvas(Box(0, 0, 320, 240), width, height, width, height)
        back = np.zeros_like(smooth)
        geometry.paste(canvas, geometry.cut(canvas, smooth), back)
        assert np.abs(back.astype(int) - smooth)[4:-4, 4:-4].max() <= 2


def test_kept_part_of_a_pixel_is_its_own_mean_colour() -> None:
    """Of a canvas pixel that a hole's border runs through, what is kept counts, and nothing of what the hole hides."""
    canvas = Canvas(Box(2, 1, 26, 17), width=16, height=12, inner_width=12, inner_height=8)  # two pixels to one
    rgb = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    hole = np.zeros((20, 30), np.bool_)
    hole[5:12, 7:20] = True  # its left border halves canvas pixels, its top one does not
    other = np.where(hole[..., None], 255 - rgb, rgb)
    colours, is_half_kept = geometry.cut_kept(canvas, rgb, hole[canvas.box.slices])
    others, same = geometry.cut_kept(canvas, other, hole[canvas.box.slices])
    assert colours.shape == (12, 16, 3)
    assert (is_half_kept == same).all()
    assert (colours[is_half_kept] == others[is_half_kept]).all()
    # Columns 6 and 7 make canvas column 2, of which 6 is kept; rows 5 and 6 make row 2.
    assert is_half_kept[2, 2]
    assert np.abs(colours[2, 2].astype(float) - rgb[5:7, 6].mean(0)).max() <= 1.5
    assert not is_half_kept[2:5, 3:8].any()
    assert np.abs(colours[0, 0].astype(float) - rgb[1:3, 2:4].mean((0, 1))).max() <= 1.5
