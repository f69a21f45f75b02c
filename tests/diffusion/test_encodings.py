"""Pictures that were encoded before."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sd_inpaint.diffusion.denoiser import Denoiser
from sd_inpaint.diffusion.encodings import Encodings
from tests.support.canvases import make_task, paint
from tests.support.tiny_model import make_components, make_denoiser


@pytest.fixture
def denoiser() -> Denoiser:
    """Real classes at tiny size."""
    return make_denoiser(make_components())


@pytest.fixture
def encoded(denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """How often the VAE encodes, and whether it works in tiles."""
    calls: list[bool] = []
    encode = denoiser._model.encode

    def count(pictures: torch.Tensor, *, low_memory: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(low_memory)
        return encode(pictures, low_memory=low_memory)

    monkeypatch.setattr(denoiser._model, "encode", count)
    return calls


def test_another_seed_and_another_prompt_encode_nothing(denoiser: Denoiser, encoded: list[bool]) -> None:
    """The second request on a picture is painted without the VAE's encoder, and as it is painted without the first."""
    paint(denoiser, make_task(seed=1))
    first = len(encoded)
    again = paint(denoiser, make_task(seed=2))
    assert first > 0
    assert len(encoded) == first
    assert np.array_equal(again, paint(make_denoiser(make_components()), make_task(seed=2)))


def test_another_picture_hole_or_way_is_encoded(denoiser: Denoiser, encoded: list[bool]) -> None:
    """One pixel, the hole's edge and tiles all make a difference."""
    encodings = Encodings(denoiser._model)
    image, hole = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.bool_)
    other, larger = image.copy(), hole.copy()
    other[3, 4, 0] = 1
    larger[3, 4] = True
    for picture, cut, low_memory in (
        (image, hole, False),
        (image, hole, True),
        (image, None, False),
        (image, larger, False),
        (other, hole, False),
    ):
        for _ in range(2):
            encodings.encode(picture, cut, low_memory=low_memory)
    assert encoded == [False, True, False, False, False]


def test_the_oldest_makes_room(denoiser: Denoiser, encoded: list[bool]) -> None:
    """What is kept stays under its bound, and is given back after trouble."""
    one = sum(
        tensor.nbytes for tensor in Encodings(denoiser._model).encode(np.zeros((32, 32, 3), np.uint8), low_memory=False)
    )
    encoded.clear()
    encodings = Encodings(denoiser._model, max_bytes=2 * one)
    pictures = [np.full((32, 32, 3), level, np.uint8) for level in (1, 2, 3)]
    for picture in (*pictures, pictures[2], pictures[1], pictures[0]):
        encodings.encode(picture, low_memory=False)
    assert len(encoded) == 4
    encodings.forget()
    encodings.encode(pictures[0], low_memory=False)
    assert len(encoded) == 5
