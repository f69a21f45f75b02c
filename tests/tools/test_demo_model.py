"""The demo model as it ships: that it loads, that it paints what the prompt says, and that it changes no more."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

import sd_inpaint
from sd_inpaint.diffusion import sources
from tools.demo_model import data, evaluate
from tools.demo_model.objects import OBJECTS
from tools.demo_model.sources import SKIMAGE_HELD_OUT_PHOTOS

MODEL = Path(sd_inpaint.__file__).parent / "demo_model"
MAX_BYTES = 40_000_000
"""Of all files together: what a package may carry without being a burden to those who never use it."""

STEPS = 10
"""Fewer than a caller's default of 50, for the test's time; the objects are the same ones."""


@pytest.fixture(scope="module")
def references() -> Iterator[None]:
    """Objects are drawn from golden/demo_objects.png in place of the package of emoji."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "sprite", evaluate.reference_sprites().__getitem__)
        yield


@pytest.fixture(scope="module")
def paint(references: None) -> Iterator[Any]:
    """Paints requests with the service's own engine and the demo model."""
    with evaluate.Service("demo", threads=2, max_batch=8) as service:
        yield functools.partial(service.paint, sampling=evaluate.Sampling(steps=STEPS))


@pytest.fixture(scope="module")
def size() -> int:
    """The model's native size in pixels, from its own config."""
    from sd_inpaint.diffusion import weights
    from sd_inpaint.settings import Settings

    return weights.load(Settings(model="demo", device="cpu")).limits.native_size


def test_size_of_the_package_data() -> None:
    """All files together stay within 40 MB."""
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= MAX_BYTES


@pytest.mark.parametrize(
    ("library", "name", "subfolder"),
    [
        ("diffusers", "UNet2DConditionModel", "unet"),
        ("diffusers", "AsymmetricAutoencoderKL", "vae"),
        ("diffusers", "DDIMScheduler", "scheduler"),
        ("transformers", "CLIPTextModel", "text_encoder"),
        ("transformers", "CLIPTokenizer", "tokenizer"),
    ],
)
def test_each_part_loads(library: str, name: str, subfolder: str) -> None:
    """Every subfolder is what its class's from_pretrained reads, offline."""
    part = getattr(__import__(library), name).from_pretrained(MODEL, subfolder=subfolder, local_files_only=True)
    assert type(part).__name__ == name


@pytest.mark.parametrize("text", ["a red rose", "🌹", "一朵红玫瑰", "ROSE\n\tévasée \x00", "", "rose " * 200])
def test_tokenizer_takes_any_text(text: str) -> None:
    """Whatever the prompt is written in, its tokens are of the text encoder's vocabulary, and 77 at most."""
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(MODEL, subfolder="tokenizer")
    ids = tokenizer(text, padding="max_length", truncation=True).input_ids
    assert len(ids) == 77
    vocabulary = CLIPTextModel.from_pretrained(MODEL, subfolder="text_encoder").config.vocab_size
    assert max(ids) < vocabulary == len(tokenizer)


def test_subjects_are_the_objects() -> None:
    """The model's folder names every object that it was taught, for those who ask what it can paint."""
    assert sources.Source("demo", MODEL).subjects() == [item.label for item in OBJECTS]


def test_objects_reach_their_reference(paint: Any) -> None:
    """What is painted for a prompt lies nearer to that object than to seven others."""
    labels = [item.label for item in OBJECTS]
    wanted = [labels.index(label) for label in evaluate.TEST_LABELS]
    requests = [evaluate.object_request(label, 50, photos=SKIMAGE_HELD_OUT_PHOTOS) for label in wanted]
    nearest = [
        min(wanted, key=functools.partial(evaluate.distance_to_object, painted, request))
        for request, painted in zip(requests, paint(requests), strict=True)
    ]
    hits = sum(found == label for found, label in zip(nearest, wanted, strict=True))
    # 8 of 8 when this was written (178 of 182 over all objects); one is left for another CPU's rounding.
    assert hits >= 7, [labels[i] for i in nearest]


@pytest.fixture(scope="module")
def removals(paint: Any, size: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Holes, what was painted into them, and what stood there."""
    cases = [drawn_removal(index, size) for index in range(8)]
    paintings = paint([request for request, _ in cases])
    return [(request.hole, painted, truth) for (request, truth), painted in zip(cases, paintings, strict=True)]


def test_removal_finds_the_background(removals: list[Any]) -> None:
    """With the guide's background prompt the hole shows about what stood behind the object."""
    ratios = [evaluate.psnr(painted, truth, hole) for hole, painted, truth in removals]
    # 35.1 dB when this was written; 3 dB are left for another CPU's rounding and a model trained anew.
    assert np.mean(ratios) >= 32.1, ratios


def test_removal_leaves_a_small_seam(removals: list[Any]) -> None:
    """Pixels on both sides of the hole's border differ by a few levels, where there was no object."""
    jumps = np.array([evaluate.border_jump(painted, hole) for hole, painted, _ in removals])
    levels = jumps[:, 0].sum() / jumps[:, 1].sum()
    # 1.8 of 255 when this was written; a third is left for another CPU's rounding and a model trained anew.
    assert levels <= 2.4, jumps


def drawn_removal(index: int, size: int) -> tuple[Any, np.ndarray]:
    """A box of grey to remove from a background that needs neither font nor photos."""
    rng = np.random.default_rng([31, index])
    kinds = [kind for kind, _ in data.DRAWN_BACKGROUNDS[:4]]
    background = np.clip(kinds[index % 4](size, rng), 0, 255).astype(np.uint8)
    hole = np.zeros((size, size), np.bool_)
    top, left = rng.integers(size // 8, size // 2, 2)
    hole[top : top + size // 3, left : left + size // 3] = True
    picture = np.where(hole[..., None], np.uint8(40), background)
    return evaluate.Request(picture, hole, evaluate.REMOVAL_PROMPT, seed=index), background


def test_hole_is_that_of_diffusers_pipeline(paint: Any, size: int) -> None:
    """Diffusers' own pipeline loads the folder, and paints the same into the hole."""
    request, _ = drawn_removal(0, size)
    hole = np.zeros((size, size), np.bool_)
    hole[size // 4 : size // 4 * 3, size // 4 : size // 2] = (
        True  # on the grid of latent cells, as diffusers reads masks
    )
    (ours,) = paint([dataclasses.replace(request, hole=hole, prompt="a red rose")])
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(MODEL, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt="a red rose",
        negative_prompt="",
        image=Image.fromarray(request.picture),
        mask_image=Image.fromarray(hole),
        width=size,
        height=size,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="np",
    ).images[0]
    # Half a level from rounding to whole numbers, and float rounding over the steps of two threads.
    assert np.abs(ours - theirs * 255)[hole].max() <= 0.6


def test_prompt_and_seed_change_the_hole_only(paint: Any, size: int) -> None:
    """Another prompt or another seed gives another hole, and every value outside it is the input's."""
    first, _ = drawn_removal(1, size)
    requests = [
        dataclasses.replace(first, prompt=prompt, seed=seed)
        for prompt, seed in (("a red rose", 1), ("a red car", 1), ("a red rose", 2), ("a red rose", 1))
    ]
    rose, car, other_rose, same_rose = paint(requests)
    for picture in (rose, car, other_rose):
        np.testing.assert_array_equal(picture[~first.hole], first.picture[~first.hole])
    assert np.abs(rose.astype(int) - car)[first.hole].mean() > 5
    assert (rose != other_rose)[first.hole].any()
    # Rows of one batch are computed together, so that rounding may differ in the last bit.
    assert np.abs(rose.astype(int) - same_rose).max() <= 1
