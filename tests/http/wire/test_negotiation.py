"""The Accept header → the format that is written."""

import pytest

from sd_inpaint.errors import NotAcceptableError
from sd_inpaint.http.wire.negotiation import choose_media_type
from sd_inpaint.http.wire.results import OFFERED

ACCEPT = [
    (None, "image/png"),
    ("", "image/png"),
    ("*/*", "image/png"),
    ("image/*", "image/png"),
    ("image/png", "image/png"),
    ("IMAGE/WebP", "image/webp"),
    ("image/jpeg", "image/jpeg"),
    ("image/avif", "image/avif"),
    ("application/json", "application/json"),
    ("application/*", "application/json"),
    ("application/json, text/plain, */*", "image/png"),
    ("image/webp, image/*;q=0.8", "image/webp"),
    ("image/webp;q=0.5, image/jpeg;q=0.7", "image/jpeg"),
    ("image/webp;q=0.5, */*;q=0.1", "image/webp"),
    ("image/png;q=0, */*", "image/webp"),
    ("image/*;q=0, */*;q=0.1", "application/json"),
    ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "image/jpeg"),
    ("nonsense, image/webp", "image/webp"),
    ("image/png;level=1;q=0.2, image/jpeg;q=0.1", "image/png"),
    (",,image/jpeg,,", "image/jpeg"),
]


@pytest.mark.parametrize(("accept", "chosen"), ACCEPT)
def test_accept(accept: str | None, chosen: str) -> None:
    """The caller's quality values decide, narrower ranges before wider ones; of equals, PNG."""
    assert choose_media_type(accept, OFFERED) == chosen


@pytest.mark.parametrize(
    "accept", ["text/html", "image/gif", "*/*;q=0", "image/png;q=0", "image", "image/png;q=2", ";"]
)
def test_accept_that_cannot_be_met(accept: str) -> None:
    """An Accept header without a format that is written here is refused."""
    with pytest.raises(NotAcceptableError):
        choose_media_type(accept, OFFERED)
