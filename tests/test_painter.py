"""Whole requests, with real classes at tiny size."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sd_inpaint.errors import DeadlineExceededError, ModelDisabledError, QueueFullError
from sd_inpaint.imaging import codecs, colours, icc
from sd_inpaint.imaging.preparation import Upload
from sd_inpaint.painter import Painter
from sd_inpaint.picture import Picture
from sd_inpaint.progress import Progress
from sd_inpaint.schema import SEED_MAX, InpaintParameters, InpaintRequest, InpaintResult, MaskedContent
from sd_inpaint.settings import Settings
from tests.field.pictures import P3
from tests.support.tiny_model import make_components, make_fitting_vae, save

WHOLE_PICTURE = ({"region": "full"}, {"region": "auto"}, {"region": "mask", "padding": 64})
"""Three ways to ask for all of a small picture."""


def make_painter(model: Path, **settings: object) -> Painter:
    """Makes a painter that is ready."""
    painter = Painter(Settings(model=str(model), device="cpu", threads=1, **settings))  # type: ignore[arg-type]
    painter.start()
    assert painter.engine.wait_loaded(60)
    painter.check_open()
    return painter


@pytest.fixture(scope="module")
def painter(tiny_model: Path) -> Iterator[Painter]:
    """A painter that many tests share."""
    painter = make_painter(tiny_model)
    yield painter
    painter.stop(drain_seconds=5.0)


def make_request(
    size: tuple[int, int] = (70, 53), hole: tuple[int, int, int, int] = (10, 5, 30, 25), **parameters: object
) -> InpaintRequest:
    """Makes a request with a picture of noise and a box of hole."""
    width, height = size
    rgb = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    left, top, right, bottom = hole
    mask[top:bottom, left:right] = 255
    options = {"prompt": "rose", "num_inference_steps": 2, "guidance_scale": 1.0} | parameters
    return InpaintRequest(Picture(rgb, None, None), mask, InpaintParameters(**options))  # type: ignore[arg-type]


def paint(painter: Painter, request: InpaintRequest, **options: object) -> InpaintResult:
    """Paints one request."""
    return asyncio.run(painter.paint(request, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "hole"),
    [
        ((1, 1), (0, 0, 1, 1)),
        ((70, 53), (10, 5, 30, 25)),
        ((300, 20), (100, 3, 110, 9)),
        ((5, 200), (0, 0, 5, 200)),
        ((321, 243), (150, 100, 170, 115)),
    ],
    ids=str,
)
@pytest.mark.parametrize("region", ["auto", "full", "mask"])
def test_result_has_the_inputs_size_and_its_kept_pixels(
    painter: Painter, size: tuple[int, int], hole: tuple[int, int, int, int], region: str
) -> None:
    """Whatever the size and the region, black-mask pixels are equal to the byte, and the white ones are painted."""
    request = make_request(size, hole, region=region)
    result = paint(painter, request)
    assert result.variations[0].image.size == size
    kept = request.mask == 0
    assert (result.variations[0].image.rgb[kept] == request.image.rgb[kept]).all()
    assert (result.variations[0].image.rgb[~kept] != request.image.rgb[~kept]).any()
    assert result.steps == 2
    assert result.regions
    assert result.inference_seconds > 0


@pytest.mark.parametrize("size", [(64, 64), (70, 53)], ids=str)
def test_region_that_is_the_picture_equals_the_full_one(painter: Painter, size: tuple[int, int]) -> None:
    """Where the chosen region is the whole picture, it makes no difference which way it was asked for."""
    hole = (5, 5, size[0] - 6, size[1] - 6)
    results = [paint(painter, make_request(size, hole, **options)) for options in WHOLE_PICTURE]
    assert len({result.regions for result in results}) == 1
    assert all((result.variations[0].image.rgb == results[0].variations[0].image.rgb).all() for result in results)


def test_grey_is_monotone_from_the_input_to_the_painted_picture(painter: Painter) -> None:
    """Of one hole, each step of grey brings each pixel nearer to the painted one, and never the other way."""
    request = make_request((64, 64))
    levels = []
    for grey in (128, 160, 200, 254, 255):
        mask = np.where(request.mask == 255, grey, 0).astype(np.uint8)
        levels.append(
            paint(painter, InpaintRequest(request.image, mask, request.parameters)).variations[0].image.rgb.astype(int)
        )
    whole = levels[-1] - request.image.rgb
    steps = np.diff(np.stack([request.image.rgb.astype(int), *levels]), axis=0)
    assert (np.sign(steps) * np.sign(whole) >= 0).all()


def test_a_result_names_the_uploaded_file(painter: Painter) -> None:
    """The digest of the upload, taken where it is decoded, comes with the result."""
    request = make_request()
    file = codecs.encode(request.image)
    mask = codecs.encode(Picture(np.dstack([request.mask] * 3)))
    upload = Upload(file, mask, request.parameters, max_pixels=10_000)

    async def admit_and_paint() -> InpaintResult:
        with await painter.admit(upload) as admitted:
            return await painter.paint(admitted)

    result = asyncio.run(admit_and_paint())
    assert result.image_sha256 == hashlib.sha256(file).hexdigest()


def test_black_mask_gives_the_input_back_without_the_model(painter: Painter) -> None:
    """Nothing to paint costs no step."""
    request = make_request(hole=(0, 0, 0, 0))
    before = painter.engine.outcomes["done"]
    result = paint(painter, request)
    assert result.variations[0].image is request.image
    assert (result.steps, result.brightest) == (0, 0)
    assert painter.engine.outcomes["done"] == before


@pytest.mark.parametrize("soft_mask", ["blend", "strength"])
@pytest.mark.parametrize("black", [1, 5, 10])
def test_black_that_is_not_quite_black(painter: Painter, black: int, soft_mask: str) -> None:
    """A mask whose black is a grey that nobody sees is painted where, as finely and as it would be with black."""
    request = make_request((640, 480), (300, 200, 340, 230), soft_mask=soft_mask, color_match=True)
    grey = np.maximum(request.mask, black)
    clean = paint(painter, request)
    faint = paint(painter, InpaintRequest(request.image, grey, request.parameters))
    assert faint.regions == clean.regions
    one, other = (result.variations[0].image.rgb.astype(int) for result in (clean, faint))
    assert np.array_equal(one[request.mask == 255], other[request.mask == 255])
    assert np.abs(one - other).max() <= black
    outside = np.ones(request.mask.shape, bool)
    left, top, right, bottom = (int(side) for side in clean.regions[0].partition("@")[0].split(","))
    outside[top:bottom, left:right] = False
    assert np.array_equal(other[outside], request.image.rgb[outside])


def test_white_that_is_not_quite_white(painter: Painter) -> None:
    """A mask whose white is 254 is painted as with white but for a level, by strength too."""
    for options in ({}, {"soft_mask": "strength"}):
        request = make_request(hole=(0, 0, 70, 53), **options)
        white = paint(painter, request)
        nearly = paint(painter, InpaintRequest(request.image, np.full_like(request.mask, 254), request.parameters))
        # The trace that is left of the caller's picture is one all the same.
        assert white.is_all_painted
        assert not nearly.is_all_painted
        one, other = (result.variations[0].image.rgb.astype(int) for result in (white, nearly))
        assert np.abs(one - other).max() <= 1


def test_mask_that_nobody_sees(painter: Painter) -> None:
    """A mask that is faint all over asks for nothing that could be seen: the input comes back, as with a black one."""
    request = make_request()
    result = paint(painter, InpaintRequest(request.image, np.full_like(request.mask, 3), request.parameters))
    assert result.variations[0].image is request.image
    assert result.steps == 0


def test_model_sees_and_paints_srgb(painter: Painter) -> None:
    """A picture of a wide space is painted as the same picture in sRGB, and its result keeps the space."""
    profile = icc.rgb_profile(P3, [icc.srgb_curve()])
    request = make_request()
    wide = Picture(colours.from_srgb(request.image.rgb, profile), None, profile)
    plain = paint(painter, request).variations[0].image
    result = paint(painter, InpaintRequest(wide, request.mask, request.parameters)).variations[0].image
    assert result.icc_profile == profile
    assert np.array_equal(result.rgb[request.mask == 0], wide.rgb[request.mask == 0])
    hole = request.mask == 255
    off = np.abs(colours.to_srgb(result.rgb, profile).astype(int) - plain.rgb)[hole]
    assert off.mean() < 1.5
    assert off.mean() < np.abs(result.rgb.astype(int) - plain.rgb)[hole].mean() / 2


def test_grey_that_soft_masks_reveal_keeps_a_trace_of_the_callers(painter: Painter) -> None:
    """A grey that ``soft_mask=strength`` lets through whole was still started from the caller's picture."""
    request = make_request(hole=(0, 0, 70, 53), soft_mask="strength")
    grey = np.full_like(request.mask, 200)
    assert not paint(painter, InpaintRequest(request.image, grey, request.parameters)).is_all_painted


@pytest.mark.parametrize(
    ("hole", "options", "expected"),
    [
        ((0, 0, 70, 53), {}, True),
        ((0, 0, 0, 0), {"mask_invert": True}, True),
        ((0, 0, 69, 53), {}, False),
        ((0, 0, 70, 53), {"strength": 0.5}, False),
    ],
    ids=["white mask", "black mask, inverted", "a column kept", "started from the picture"],
)
def test_picture_without_a_trace_of_the_callers_is_said_to_be_one(
    painter: Painter, hole: tuple[int, int, int, int], options: dict[str, object], expected: bool
) -> None:
    """Only a result that holds nothing of the input counts as painted throughout: its file is marked otherwise."""
    assert paint(painter, make_request(hole=hole, **options)).is_all_painted is expected


def test_filled_hole_is_what_less_strength_starts_from(painter: Painter) -> None:
    """With ``masked_content=fill`` what was in the hole leaves no trace, also at a strength that else keeps some."""
    request = make_request(strength=0.5)
    other = request.image.rgb.copy()
    other[request.mask == 255] = 255 - other[request.mask == 255]
    pictures = [request.image, Picture(other)]

    def painted(content: str) -> list[np.ndarray]:
        parameters = request.parameters.model_copy(update={"masked_content": MaskedContent(content)})
        return [
            paint(painter, InpaintRequest(picture, request.mask, parameters)).variations[0].image.rgb
            for picture in pictures
        ]

    first, second = painted("fill")
    assert np.array_equal(first[request.mask == 255], second[request.mask == 255])
    first, second = painted("original")
    assert not np.array_equal(first[request.mask == 255], second[request.mask == 255])


def test_inverted_mask_paints_the_black_part(painter: Painter) -> None:
    """With mask_invert the white part is kept."""
    request = make_request(mask_invert=True)
    result = paint(painter, request)
    white = request.mask == 255
    assert (result.variations[0].image.rgb[white] == request.image.rgb[white]).all()
    assert (result.variations[0].image.rgb[~white] != request.image.rgb[~white]).any()


def test_color_match_changes_the_painted_part_only(painter: Painter) -> None:
    """Colours are matched on request, and kept pixels stay equal to the byte."""
    request, matched = make_request(), make_request(color_match=True)
    plain, result = paint(painter, request), paint(painter, matched)
    kept = request.mask == 0
    assert (result.variations[0].image.rgb[kept] == request.image.rgb[kept]).all()
    assert (result.variations[0].image.rgb[~kept] != plain.variations[0].image.rgb[~kept]).any()


def test_random_seed_is_returned_and_repeats(painter: Painter) -> None:
    """A seed of -1 draws one; sent again by its number, it gives the same picture."""
    first, other = paint(painter, make_request(seed=-1)), paint(painter, make_request(seed=-1))
    assert first.variations[0].seed != other.variations[0].seed
    again = paint(painter, make_request(seed=first.variations[0].seed))
    assert (again.variations[0].image.rgb == first.variations[0].image.rgb).all()
    assert (other.variations[0].image.rgb != first.variations[0].image.rgb).any()


def test_several_pictures_take_the_seeds_that_follow(painter: Painter) -> None:
    """Asked for three pictures, each is the one that its own seed gives alone; after the largest seed comes 0."""
    several = paint(painter, make_request(seed=SEED_MAX, num_images=3))
    assert [variation.seed for variation in several.variations] == [SEED_MAX, 0, 1]
    for variation in several.variations:
        alone = paint(painter, make_request(seed=variation.seed))
        assert (alone.variations[0].image.rgb == variation.image.rgb).all()
    assert len(paint(painter, make_request(hole=(0, 0, 0, 0), num_images=2)).variations) == 2


def test_twenty_at_once_are_what_each_is_alone(painter: Painter) -> None:
    """Under load, among other sizes and step counts, each request gets the bytes it gets alone."""
    requests = [
        make_request((70, 53) if n % 2 else (40, 64), seed=n, num_inference_steps=1 + n % 4, guidance_scale=1.0 + n % 3)
        for n in range(20)
    ]
    alone = [paint(painter, request).variations[0].image.rgb for request in requests]

    async def all_at_once() -> list[InpaintResult]:
        return await asyncio.gather(*(painter.paint(request) for request in requests))

    for result, expected in zip(asyncio.run(all_at_once()), alone, strict=True):
        assert (result.variations[0].image.rgb == expected).all()


def test_far_apart_holes_are_painted_each(painter: Painter) -> None:
    """Two small holes at the ends of a large picture become two canvases of one request."""
    request = make_request((1200, 200), (10, 10, 40, 40))
    request.mask[150:180, 1150:1180] = 255
    result = paint(painter, request)
    assert len(result.regions) == 2
    for hole in ((10, 10, 40, 40), (1150, 150, 1180, 180)):
        left, top, right, bottom = hole
        assert (
            result.variations[0].image.rgb[top:bottom, left:right] != request.image.rgb[top:bottom, left:right]
        ).any()
    kept = request.mask == 0
    assert (result.variations[0].image.rgb[kept] == request.image.rgb[kept]).all()


def test_cancelled_task_frees_the_device(painter: Painter) -> None:
    """Cancelling the awaiting task takes its job out before the next step; the next request is served."""

    async def leave_early() -> None:
        progress = Progress()
        task = asyncio.create_task(painter.paint(make_request(num_inference_steps=150), progress=progress))
        while progress.snapshot().step < 3:  # noqa: ASYNC110 — the step is not an event
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    before = painter.engine.outcomes["cancelled"]
    asyncio.run(leave_early())
    paint(painter, make_request())
    assert painter.engine.outcomes["cancelled"] == before + 1


def test_deadline_of_a_request_counts(painter: Painter) -> None:
    """A caller who will not wait gets deadline_exceeded."""
    with pytest.raises(DeadlineExceededError):
        paint(painter, make_request(num_inference_steps=150), deadline_seconds=0.05)


def test_progress_tells_steps_and_preview(painter: Painter) -> None:
    """While a request is painted its progress grows, and a preview is there for those who want one."""
    seen = []

    async def watch() -> None:
        progress = Progress(wants_preview=True)
        assert progress.snapshot().state == "queued"
        task = asyncio.create_task(painter.paint(make_request(num_inference_steps=30), progress=progress))
        while not task.done():
            seen.append(progress.snapshot())
            await asyncio.sleep(0.005)
        await task
        assert progress.snapshot().state == "finishing"
        preview = progress.preview()
        assert preview is not None
        assert preview.region is not None
        left, top, right, bottom = preview.region
        assert left <= 10 < 30 <= right  # the hole is in it
        assert top <= 5 < 25 <= bottom
        assert (right - left) / (bottom - top) == pytest.approx(
            preview.pixels.shape[1] / preview.pixels.shape[0], rel=0.01
        )

    asyncio.run(watch())
    steps = [snapshot.step for snapshot in seen]
    assert steps == sorted(steps)
    assert len(set(steps)) > 3
    assert {snapshot.state for snapshot in seen} >= {"running"}


def test_full_queue_refuses_and_serves_again(tiny_model: Path) -> None:
    """Beyond the bound a request is refused at once, with a wait; afterwards the painter is open again."""
    painter = make_painter(tiny_model, max_queue=1)

    async def overload() -> list[object]:
        requests = [painter.paint(make_request(num_inference_steps=20)) for _ in range(4)]
        return await asyncio.gather(*requests, return_exceptions=True)

    outcomes = asyncio.run(overload())
    refused = [outcome for outcome in outcomes if isinstance(outcome, QueueFullError)]
    assert len(refused) == 3
    assert all(error.retry_after_seconds >= 1 for error in refused)
    painter.check_open()
    painter.stop(drain_seconds=5.0)


def test_disabled_painter_loads_nothing(tiny_model: Path) -> None:
    """With LOAD_SD_INPAINT=false callers are told, and info still answers."""
    painter = Painter(Settings(model=str(tiny_model), load=False))
    painter.start()
    with pytest.raises(ModelDisabledError):
        painter.check_open()
    assert painter.info()["status"] == "disabled"


def test_mask_without_greys_is_the_same_however_greys_are_read(tmp_path: Path) -> None:
    """Black and white say the same by blending and by strength, also on a canvas that is smaller than its part."""
    fitting = save(make_components() | {"vae": make_fitting_vae()}, tmp_path)
    painter = make_painter(fitting, max_canvas_pixels=4096)
    requests = [make_request((200, 150), (33, 21, 121, 102), soft_mask=soft) for soft in ("blend", "strength")]
    blend, strength = (paint(painter, request) for request in requests)
    painter.stop(drain_seconds=5.0)
    assert not blend.regions[0].endswith("x1.000")
    assert (blend.variations[0].image.rgb == strength.variations[0].image.rgb).all()
