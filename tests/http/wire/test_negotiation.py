"""The Accept header → the format that is written. Headers that clients send by themselves: tests/field/test_wire.py."""

import pytest

from sd_inpaint.errors import NotAcceptableError
from sd_inpaint.http.wire.formats import OFFERED, OFFERED_FOR_SEVERAL
from sd_inpaint.http.wire.negotiation import choose_media_type

ACCEPT = [
    (None, "image/png"),
    ("", "image/png"),
    (" ", "image/png"),
    ("*/*", "image/png"),
    ("image/*", "image/png"),
    ("image/png", "image/png"),
    # Named, and liked better than all else.
    ("IMAGE/WebP", "image/webp"),
    ("image/jpeg", "image/jpeg"),
    ("image/jpg", "image/jpeg"),
    ("image/avif", "image/avif"),
    ("application/json", "application/json"),
    ("application/json; charset=utf-8", "application/json"),
    ("image/webp, image/*;q=0.8", "image/webp"),
    ("image/webp, image/png;q=0.9", "image/webp"),
    ("image/webp;q=0.5, image/jpeg;q=0.7", "image/jpeg"),
    ("image/webp;q=0.5, */*;q=0.1", "image/webp"),
    ("application/json;q=0.9, text/plain;q=0.8", "application/json"),
    ("application/json, application/*+json", "application/json"),
    ("application/json, application/problem+json", "application/json"),
    (",,image/jpeg,,", "image/jpeg"),
    ("nonsense, image/webp", "image/webp"),
    ("image/webp;q=0.2, image/webp, */*;q=0.5", "image/webp"),
    # Named, but so is something else, and no less liked.
    ("image/webp, image/png", "image/png"),
    ("image/webp, image/jpeg, */*;q=0.1", "image/png"),
    ("image/avif, image/webp, image/png;q=0.1", "image/png"),
    ("image/webp, */*", "image/png"),
    ("image/webp, text/html, */*;q=0.8", "image/png"),
    ("image/webp;q=0.9, text/html, */*;q=0.8", "image/png"),
    ("image/png;level=1;q=0.2, image/jpeg;q=0.1", "image/png"),
    # The same, without a word of PNG: where only formats of ours are named, the caller's first; else it is a library's.
    ("image/webp, image/jpeg", "image/webp"),
    ("image/jpeg, image/webp", "image/jpeg"),
    ("image/webp, application/json", "image/webp"),
    ("image/jpeg;q=0.5, image/webp;q=0.7, application/json;q=0.7", "image/webp"),
    ("text/html, image/webp", "image/png"),
    ("text/html, image/webp;q=0.5", "image/png"),
    ("image/gif, image/jpeg", "image/png"),
    # PNG refused.
    ("image/png;q=0, */*", "image/webp"),
    ("image/png;q=0, image/jpeg, text/html", "image/jpeg"),
    ("image/*;q=0, */*;q=0.1", "application/json"),
    ("*/*;q=0, image/gif, image/webp", "image/webp"),
    ("application/*", "application/json"),
    # Nothing that can be read: nothing was said.
    ("image", "image/png"),
    ("png", "image/png"),
    (";", "image/png"),
    ("image/webp;q=2", "image/png"),
    ("image/webp;q=high", "image/png"),
]


@pytest.mark.parametrize(("accept", "chosen"), ACCEPT)
def test_best_liked_format_is_written_else_png(accept: str | None, chosen: str) -> None:
    """A format that is named and liked better than all else is written; else PNG, unless it is refused."""
    assert choose_media_type(accept, OFFERED) == chosen


@pytest.mark.parametrize(
    "accept",
    ["text/html", "image/gif", "text/html, image/gif", "*/*;q=0", "image/png;q=0", "image/webp;q=0, text/html"],
)
def test_accept_that_cannot_be_met(accept: str) -> None:
    """An Accept header without a format that is written here is refused."""
    with pytest.raises(NotAcceptableError):
        choose_media_type(accept, OFFERED)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("application/json", "application/json"),
        ("multipart/mixed, */*;q=0.5", "multipart/mixed"),
        ("application/json, text/plain, */*", "application/zip"),
        ("application/json, text/json, application/xml", "application/zip"),
        # Formats of one picture are no sign of a library's header.
        ("image/webp, application/json", "application/json"),
        ("image/png, */*;q=0.1", "application/zip"),
    ],
)
def test_accept_for_several_pictures(accept: str, chosen: str) -> None:
    """The same rule holds for containers, of which the zip is the default."""
    assert choose_media_type(accept, OFFERED_FOR_SEVERAL, written=OFFERED) == chosen


@pytest.mark.parametrize("accept", ["image/png", "image/webp, image/jpeg", "text/html, image/png"])
def test_one_picture_s_format_cannot_hold_several(accept: str) -> None:
    """Nobody who reads single pictures only is sent a container."""
    with pytest.raises(NotAcceptableError):
        choose_media_type(accept, OFFERED_FOR_SEVERAL, written=OFFERED)
