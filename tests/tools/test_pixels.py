"""The constants by which memory is reserved, held to a measurement."""

import sys

import pytest

from sd_inpaint.admission import (
    DECODE_BYTES_PER_PIXEL,
    RESULT_BYTES_PER_PIXEL,
    SMALL_BYTES,
    finish_bytes_per_pixel,
)
from sd_inpaint.work.worker_pool import CALL_BYTES
from tools.bench.pixels import measure_apart

SIDE = 1200  # pixels

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc"),
    pytest.mark.timeout(300),
]


@pytest.mark.parametrize(
    ("stage", "kind", "reserved"),
    [
        ("decode", "JPEG", DECODE_BYTES_PER_PIXEL),
        ("decode", "WebP, lossless, alpha", DECODE_BYTES_PER_PIXEL),
        ("finish", "JPEG, alpha", finish_bytes_per_pixel("jpeg") + RESULT_BYTES_PER_PIXEL),
        ("finish", "AVIF, alpha", finish_bytes_per_pixel("avif") + RESULT_BYTES_PER_PIXEL),
    ],
)
def test_reserved_memory_is_enough(stage: str, kind: str, reserved: int) -> None:
    """The dearest formats stay within what is reserved for them, and take more than a third of it."""
    measured = measure_apart(stage, kind, SIDE).bytes_per_pixel
    beside = CALL_BYTES if stage == "decode" else SMALL_BYTES
    assert reserved / 3 < measured <= reserved + beside / SIDE**2
