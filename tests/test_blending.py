"""Painted colours, brought to those around them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sd_inpaint.blending import match_surroundings


def make_case(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Makes a smooth photograph and a mask with a hole in its middle."""
    rows, columns = np.mgrid[0:height, 0:width]
    photo = np.stack([60 + rows % 90, 80 + columns % 70, np.full_like(rows, 100)], axis=-1).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 255
    return photo, mask


def test_tint_of_the_model_is_taken_off() -> None:
    """A picture that came back with a tint has none left in the hole; what is outside is not touched."""
    photo, mask = make_case(120, 150)
    painted = (photo.astype(int) + np.array([12, -9, 20])).astype(np.uint8)
    before = painted.copy()
    match_surroundings(painted, photo, mask)
    hole = mask == 255
    assert np.abs(painted[hole].astype(int) - photo[hole]).max() <= 1  # one level from rounding
    assert (painted[~hole] == before[~hole]).all()


def test_tint_that_changes_across_the_hole_is_followed() -> None:
    """A tint that is stronger on one side is taken off in proportion on the way to the other."""
    photo, mask = make_case(120, 150)
    tint = np.linspace(0, 30, 150)[None, :, None]
    painted = np.rint(photo + tint).astype(np.uint8)
    match_surroundings(painted, photo, mask)
    hole = mask == 255
    # 10 levels lie between the hole's sides; a plain mean would leave 5 of them at each.
    assert np.abs(painted[hole].astype(int) - photo[hole]).max() <= 3


def test_what_was_painted_on_purpose_stays() -> None:
    """Where the model gave the surroundings back exactly, an object in the hole keeps its colours."""
    photo, mask = make_case(90, 90)
    painted = photo.copy()
    painted[40:50, 40:50] = (255, 0, 0)
    before = painted.copy()
    match_surroundings(painted, photo, mask)
    assert (painted == before).all()


@pytest.mark.parametrize("white", ["all", "nothing"])
def test_mask_without_a_border_changes_nothing(white: str) -> None:
    """With no surroundings, or no hole, there is nothing to match."""
    photo, mask = make_case(40, 40)
    mask[:] = 255 if white == "all" else 0
    painted = 255 - photo
    before = painted.copy()
    match_surroundings(painted, photo, mask)
    assert (painted == before).all()


@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_any_size_and_mask(height: int, width: int, seed: int) -> None:
    """Whatever the size and the mask, kept pixels stay and no level wraps around."""
    draw = np.random.default_rng(seed)
    photo, painted = (draw.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2))
    mask = draw.integers(0, 256, (height, width), dtype=np.uint8) * draw.integers(0, 2, (height, width), dtype=np.uint8)
    before = painted.copy()
    match_surroundings(painted, photo, mask)
    assert (painted[mask == 0] == before[mask == 0]).all()
