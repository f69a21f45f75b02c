"""The safety checker: a flag becomes an error, never a black picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessorPil

from sd_inpaint.diffusion import weights
from sd_inpaint.diffusion.safety import SafetyChecker
from sd_inpaint.errors import ContentFlaggedError, WeightsError
from sd_inpaint.settings import Settings
from tests.support.canvases import make_task, paint
from tests.support.tiny_model import make_components, make_denoiser, save


def make_checker(*, flags: bool) -> tuple[StableDiffusionSafetyChecker, CLIPImageProcessorPil]:
    """Makes the real class at tiny size, with thresholds that flag every picture, or none."""
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config={**vision, "image_size": 32, "patch_size": 16}, projection_dim=8)
    )
    # A picture is flagged where its likeness to a concept, from -1 to 1, goes beyond the concept's threshold.
    checker.concept_embeds_weights.data.fill_(-2.0 if flags else 2.0)
    checker.special_care_embeds_weights.data.fill_(2.0)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return checker.eval(), processor


def test_flagged_picture_is_an_error() -> None:
    """Where the checker flags a canvas the job ends with content_flagged; otherwise with its picture, unchanged."""
    components = make_components()
    plain = paint(make_denoiser(components), make_task())
    passing = make_denoiser(components, safety_checker=SafetyChecker(*make_checker(flags=False)))
    assert (paint(passing, make_task()) == plain).all()
    strict = make_denoiser(components, safety_checker=SafetyChecker(*make_checker(flags=True)))
    with pytest.raises(ContentFlaggedError):
        paint(strict, make_task())


def test_any_canvas_size_can_be_checked() -> None:
    """The checker scales what it is given, also the smallest and the narrowest canvas."""
    checker = SafetyChecker(*make_checker(flags=False))
    for size in ((8, 8), (8, 512), (512, 8)):
        assert not checker.flags(np.zeros((*size, 3), np.uint8))


def test_checker_loads_where_its_weights_are(tmp_path: Path) -> None:
    """``auto`` takes the checker that is in the model's folder, ``off`` leaves it, ``on`` refuses to do without."""
    folder = save(make_components(), tmp_path)
    assert weights.load(Settings(model=str(folder), device="cpu")).info["safety_checker"] is False
    with pytest.raises(WeightsError, match="SD_INPAINT_SAFETY_CHECKER"):
        weights.load(Settings(model=str(folder), device="cpu", safety_checker="on"))
    checker, processor = make_checker(flags=True)
    checker.save_pretrained(folder / "safety_checker")
    processor.save_pretrained(folder / "feature_extractor")
    for setting, expected in (("auto", True), ("on", True), ("off", False)):
        backend = weights.load(Settings(model=str(folder), device="cpu", safety_checker=setting))
        assert backend.info["safety_checker"] is expected
        assert ("safety_checker/model.safetensors" in backend.info["files"]) is True  # verified, loaded or not
