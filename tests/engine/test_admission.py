"""Places in a line that callers share."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd_inpaint.engine.admission import OVERFLOW, has_place


@pytest.mark.parametrize(
    ("held", "caller", "expected"),
    [
        ({}, "one", True),
        ({"one": 3}, "one", True),
        ({"one": 4}, "one", False),
        ({"one": 4}, "other", True),
        ({"one": 4, "other": 1}, "other", True),
        ({"one": 4, "other": 2}, "other", False),
        ({"one": 4, "other": 2}, "third", True),
        ({"one": 4, "other": 2, "third": 2}, "fourth", False),
    ],
)
def test_places(held: dict[str, int], caller: str, expected: bool) -> None:
    """Whatever is free is anybody's; in a full line of four, a caller below their share gets a place, up to eight."""
    assert has_place(held, caller, 4) is expected


def test_weights() -> None:
    """A caller of weight 3 beside one of weight 1 gets three quarters."""
    weights = {"one": 1.0, "other": 3.0}
    assert has_place({"one": 8, "other": 5}, "other", 8, weights)
    assert not has_place({"one": 8, "other": 6}, "other", 8, weights)


@given(most=st.integers(1, 50), order=st.lists(st.sampled_from("abcdefgh"), max_size=200))
def test_line_is_bounded(most: int, order: list[str]) -> None:
    """Whoever comes in whichever order, the line holds twice its places at most, and one caller never more than all."""
    held: Counter[str] = Counter()
    for caller in order:
        if has_place(held, caller, most):
            held[caller] += 1
    assert held.total() <= OVERFLOW * most
    assert max(held.values(), default=0) <= most
