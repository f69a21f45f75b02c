"""The demo model's pictures, by OpenVINO and by torch."""

from pathlib import Path

import numpy as np
import torch

import sd_inpaint
from sd_inpaint.diffusion import weights
from sd_inpaint.diffusion.openvino.converter import convert_in_place
from sd_inpaint.engine.canvas_jobs import CanvasTask
from sd_inpaint.schema import InpaintParameters
from sd_inpaint.settings import Settings

MEAN_TOLERANCE = 0.05
"""Levels of 255. Both compute in float32, in another order: now and then a value is rounded to the next level."""


def test_pictures_are_torchs(tmp_path: Path) -> None:
    """The same seed gives the same picture by both, but for rounding."""
    folder = Path(sd_inpaint.__file__).parent / "demo_model"
    convert_in_place(folder / "unet", tmp_path / "openvino", torch.float32)
    settings = Settings(model="demo", device="cpu", state_dir=tmp_path / "state", cache_dir=tmp_path)
    pictures = []
    for backend in ("torch", "openvino"):
        denoiser = weights.load(settings.model_copy(update={"backend": backend}))
        side = denoiser.limits.native_size
        mask = np.zeros((side, side), np.uint8)
        mask[side // 4 : -side // 4, side // 4 : -side // 4] = 255
        picture = np.tile(np.linspace(0, 255, side).astype(np.uint8)[:, None, None], (1, side, 3))
        parameters = InpaintParameters(prompt="a red rose", num_inference_steps=8)
        diffusion = denoiser.begin(CanvasTask(picture, mask, parameters, seed=3))
        assert diffusion.plan == f"{backend}-float32"
        while diffusion.step < diffusion.steps:
            denoiser.advance(diffusion, denoiser.predict([diffusion])[0])
        pictures.append(denoiser.finish(diffusion).astype(int))
    difference = np.abs(pictures[0] - pictures[1])
    assert difference.mean() < MEAN_TOLERANCE
    assert pictures[0].std() > 10
