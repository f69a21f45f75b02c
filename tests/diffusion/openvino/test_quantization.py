"""What INT8 is calibrated with, and what it needs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sd_inpaint.diffusion.openvino import quantization
from sd_inpaint.diffusion.openvino.converted_unet import ConvertedUNet
from sd_inpaint.diffusion.openvino.quantization import PROMPTS, denoising_states, quantize
from sd_inpaint.errors import WeightsError
from tests.support.tiny_model import make_denoiser


def test_calibration_is_the_models_own_denoising(components: dict[str, Any]) -> None:
    """Each step of each picture is one state, from noise to picture, with both rows of guidance."""
    states = denoising_states(make_denoiser(components), steps=3)
    assert len(states) == 3 * len(PROMPTS)
    sample, timesteps, embeddings = states[0]
    assert (sample.shape, timesteps.shape, embeddings.shape) == ((2, 9, 16, 16), (2,), (2, 16, 32))
    assert [float(state[1][0]) for state in states[:3]] == sorted(float(state[1][0]) for state in states[:3])[::-1]
    # Another step has other latents, another picture another background.
    assert not np.array_equal(states[0][0][:, :4], states[1][0][:, :4])
    assert not np.array_equal(states[0][0][:, 5:], states[3][0][:, 5:])


def test_pictures_of_ones_own_are_used(components: dict[str, Any]) -> None:
    """What an operator calibrates with is what the model sees."""
    denoiser = make_denoiser(components)
    picture = np.full((64, 64, 3), 200, np.uint8)
    own, default = denoising_states(denoiser, [picture], steps=1), denoising_states(denoiser, steps=1)
    assert not np.array_equal(own[0][0][:, 5:], default[0][0][:, 5:])


def test_without_nncf_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, model_folder: Path, tmp_path: Path
) -> None:
    """NNCF is in no lock: where it is missing, quantising says so and writes nothing."""
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    unet = ConvertedUNet(model_folder / "unet", tmp_path, {"config.json": "a"}, torch.float32, is_quantized=True)
    with pytest.raises(WeightsError, match="pip install nncf"):
        quantize(unet, [])
    assert not list(tmp_path.iterdir())
