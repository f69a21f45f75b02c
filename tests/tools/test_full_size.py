"""``scripts/make_full_size_model.py``: the real thing's size, without the real thing's weights."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sd_inpaint.diffusion import weights
from sd_inpaint.engine.canvas_jobs import CanvasTask
from sd_inpaint.schema import InpaintParameters
from sd_inpaint.settings import Settings
from tests.support.repository import ROOT

UNET_PARAMETERS = 859_535_364
"""Stable Diffusion 1.5's inpainting UNet: the 859,520,964 of the text-to-image one, and five more input channels.

Source: the shapes in stable-diffusion-v1-5/stable-diffusion-inpainting, unet/diffusion_pytorch_model.fp16.safetensors.
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_has_the_real_size_and_paints(tmp_path: Path) -> None:
    """It loads as the real model does, at the real shapes, and paints a picture in float32 on the CPU."""
    folder = tmp_path / "full"
    script = ROOT / "scripts" / "make_full_size_model.py"
    done = subprocess.run([sys.executable, script, folder], capture_output=True, check=True, text=True)
    assert "2.13 GB" in done.stdout
    assert {path.name for path in folder.rglob("*.safetensors")} == {
        "diffusion_pytorch_model.fp16.safetensors",
        "model.fp16.safetensors",
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        settings = Settings(_env_file=None, model=str(folder), device="cpu", dtype="float32")  # type: ignore[call-arg]
        denoiser = weights.load(settings)
        assert (denoiser.limits.native_size, denoiser.limits.stride) == (512, 8)
        side = denoiser.limits.native_size // 2  # which takes a quarter of the time
        mask = np.zeros((side, side), np.uint8)
        mask[64:192, 64:192] = 255
        image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        parameters = InpaintParameters(prompt="a rose", num_inference_steps=1, guidance_scale=1.0)
        diffusion = denoiser.begin(CanvasTask(image, mask, parameters, 42))
        while diffusion.step < diffusion.steps:
            denoiser.advance(diffusion, denoiser.predict([diffusion])[0])
        painted = denoiser.finish(diffusion)
    finally:
        torch.set_num_threads(threads)
    assert painted.shape == (side, side, 3)
    assert painted.std() > 1
    unet = sum(np.prod(shape) for shape in _shapes(folder / "unet").values())
    assert unet == UNET_PARAMETERS


def _shapes(folder: Path) -> dict[str, list[int]]:
    from safetensors import safe_open

    with safe_open(folder / "diffusion_pytorch_model.fp16.safetensors", "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  # no dict
