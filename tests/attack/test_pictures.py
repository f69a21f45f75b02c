"""Small files that are dear to decode: what they cost is bounded by what they are."""

import time

import numpy as np
import pytest

from sd_inpaint.errors import CallerError, ImageTooLargeError, InvalidImageError
from sd_inpaint.imaging import codecs, masks, probe
from tests.support.bombs import (
    jpeg_that_lies,
    png_of_one_colour,
    png_of_profiles,
    run_length_bmp,
    tiff_of_strips,
)
from tests.support.pictures import photo, written

MAX_PIXELS = 50_000_000

LOOK_SECONDS = 5.0
"""For what takes some milliseconds where a machine is not busy; without its guard each of these takes longer."""


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: run_length_bmp(7071, 7071), InvalidImageError),
        (lambda: run_length_bmp(50_000_000, 1), ImageTooLargeError),
        (lambda: png_of_profiles(5000), InvalidImageError),
        (lambda: png_of_one_colour(1, 1_000_000, 1), ImageTooLargeError),
        (lambda: tiff_of_strips(200_000), ImageTooLargeError),
        (lambda: jpeg_that_lies(10_000, 5000), InvalidImageError),
    ],
    ids=["run-length BMP", "run-length BMP of one row", "profiles", "thin PNG", "strips", "JPEG that lies"],
)
def test_dear_files_are_refused_by_their_headers(make, error: type[CallerError]) -> None:
    """A file whose decoding would cost far more than its size is refused, by name, before a pixel is decoded."""
    data = make()
    started = time.process_time()
    with pytest.raises(error, match=r"^The image "):
        codecs.read_size(data, "image", max_pixels=MAX_PIXELS)
    assert time.process_time() - started < LOOK_SECONDS


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("run-length BMP", run_length_bmp(70, 53)),
        ("strips", tiff_of_strips(1000)),
        ("profile", png_of_profiles(1, 1000)),
        ("flat JPEG", written(photo((16, 16)).resize((3000, 2000)).point(lambda value: 90), "JPEG", quality=1)),
        ("longest side", png_of_one_colour(probe.MAX_SIDE, 1, 1)),
    ],
)
def test_files_like_them_are_read(name: str, data: bytes) -> None:
    """The same kinds of file, as programs write them, are read."""
    size = codecs.read_size(data, "image", max_pixels=MAX_PIXELS)
    assert codecs.decode_image(data, max_pixels=MAX_PIXELS).size == size


@pytest.mark.parametrize("shape", [(2, 5_000_000), (5_000_000, 1), (1, 5_000_000)], ids=str)
@pytest.mark.parametrize("grow", [256, -256])
def test_growing_a_thin_mask_takes_memory_by_its_size(shape: tuple[int, int], grow: int) -> None:
    """However long and thin a mask is, growing it allocates a few times its own size, and not height times radius."""
    import tracemalloc

    mask = np.zeros(shape, np.uint8)
    mask.reshape(-1)[::5] = 255
    tracemalloc.start()
    try:
        masks.prepare(mask, grow=grow)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * mask.size
