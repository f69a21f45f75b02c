"""The record in a result's file: complete, readable in every format, and absent where it does not fit."""

import io
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sd_inpaint.errors import InvalidImageError
from sd_inpaint.http.wire.results import encode_all
from sd_inpaint.imaging import codecs
from sd_inpaint.imaging.codecs import ImageFormat
from sd_inpaint.imaging.record import NAMESPACE, Record, find_record, weights_digest
from sd_inpaint.picture import Picture
from sd_inpaint.schema import InpaintParameters, InpaintResult, Variation

FACTS: dict[str, Any] = {
    "image_sha256": "1" * 64,
    "mask_sha256": "2" * 64,
    "weights_sha256": "3" * 64,
    "device": "cpu",
    "plan": "torch",
}


def file_of(image_format: ImageFormat = ImageFormat.PNG, prompt: str = "a rose", steps: int = 2, **asked: Any) -> bytes:
    """The file of a result's second picture."""
    picture = Picture(np.zeros((53, 70, 3), np.uint8))
    result = InpaintResult((Variation(picture, 7), Variation(picture, 8)), steps, inference_seconds=1.0, **FACTS)
    parameters = InpaintParameters(prompt=prompt, num_images=2, **asked)
    return encode_all(result, image_format, "demo", parameters)[1][1]


def record_of(file: bytes) -> Record | None:
    """Reads it back."""
    return find_record(codecs.read_xmp(file, max_pixels=10**6))


@pytest.mark.parametrize("image_format", ImageFormat)
def test_every_format_holds_it(image_format: ImageFormat) -> None:
    """The record says what was asked, of one picture, and who made it of what."""
    found = record_of(file_of(image_format, padding=7, mask_grow=-3, strength=0.5, seed=-1))
    assert found is not None
    assert found.parameters == InpaintParameters(prompt="a rose", padding=7, mask_grow=-3, strength=0.5, seed=8)
    assert {name: getattr(found, name) for name in FACTS} == FACTS
    assert found.model == "demo"
    assert found.version


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_any_prompt_comes_back(prompt: str) -> None:
    """No character of a prompt is lost, whatever XML cannot hold."""
    found = record_of(file_of(prompt=prompt, negative_prompt=prompt[::-1]))
    assert found is not None
    assert (found.parameters.prompt, found.parameters.negative_prompt) == (prompt, prompt[::-1])


def test_one_that_is_too_long_is_left_out() -> None:
    """A JPEG is written also if its record would not fit; the packet then still marks it as generated."""
    file = file_of(ImageFormat.JPEG, prompt="🌹" * 10_000, negative_prompt="🌹" * 10_000)
    assert record_of(file) is None
    assert "trainedAlgorithmicMedia" in codecs.read_xmp(file, max_pixels=10**6).replace("T", "t")


def test_a_picture_without_one() -> None:
    """A picture that nothing was painted in, or of another program, has no record; nor has a broken packet."""
    assert record_of(file_of(steps=0)) is None
    plain = io.BytesIO()
    Image.new("RGB", (5, 5)).save(plain, "PNG")
    assert record_of(plain.getvalue()) is None
    assert find_record("<broken") is None


def test_one_that_another_tool_wrote_again() -> None:
    """A record that became an element of its own is found too."""
    found = record_of(file_of())
    assert found is not None
    packet = f'<x xmlns:r="{NAMESPACE}"><r:Record>{escape(found.write())}</r:Record></x>'
    assert find_record(packet) == found


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"parameters":{"prompt":"x","wings":2}}'])
def test_one_of_another_version_is_an_error(text: str) -> None:
    """What cannot be read is said, not passed over."""
    with pytest.raises(InvalidImageError, match="record"):
        Record.read(text)


def test_digest_of_weights() -> None:
    """It is that of the sorted list as sha256sum prints it: other files, names or contents give another."""
    files = {"unet/a": "1" * 64, "vae/b": "2" * 64}
    digest = weights_digest(files)
    assert digest == weights_digest(dict(reversed(files.items())))
    assert len({digest, weights_digest({"unet/a": "1" * 64}), weights_digest({**files, "vae/b": "3" * 64})}) == 3
    assert weights_digest({}) == ""
