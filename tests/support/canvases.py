"""Single canvases, painted by this project's denoiser and by diffusers' own pipeline."""

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from sd_inpaint.diffusion.schedulers import create_scheduler
from sd_inpaint.engine.canvas_jobs import CanvasTask
from sd_inpaint.schema import InpaintParameters

GOLDEN = Path(__file__).parents[1] / "golden" / "denoiser.json"


def make_task(
    size: tuple[int, int] = (64, 64),
    hole: tuple[int, int, int, int] = (16, 8, 48, 40),
    seed: int = 7,
    **parameters: object,
) -> CanvasTask:
    """Makes a canvas of noise with a box of hole, on the latent grid unless told otherwise."""
    width, height = size
    image = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    left, top, right, bottom = hole
    mask[top:bottom, left:right] = 255
    options = {"prompt": "a red rose", "num_inference_steps": 4} | parameters
    return CanvasTask(image, mask, InpaintParameters(**options), seed)  # type: ignore[arg-type]


def paint(denoiser: object, task: CanvasTask) -> np.ndarray:
    """Runs one task alone, from beginning to end."""
    diffusion = denoiser.begin(task)  # type: ignore[attr-defined]
    while diffusion.step < diffusion.steps:
        denoiser.advance(diffusion, denoiser.predict([diffusion])[0])  # type: ignore[attr-defined]
    return denoiser.finish(diffusion)  # type: ignore[attr-defined,no-any-return]


def paint_with_diffusers(components: dict[str, object], task: CanvasTask) -> np.ndarray:
    """Paints the same task with StableDiffusionInpaintPipeline."""
    parameters = task.parameters
    pipeline = StableDiffusionInpaintPipeline(
        **components, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.scheduler = create_scheduler(parameters.scheduler, components["scheduler"])
    pipeline.set_progress_bar_config(disable=True)
    width, height = task.size
    return pipeline(  # type: ignore[no-any-return]
        prompt=parameters.prompt,
        negative_prompt=parameters.negative_prompt,
        image=Image.fromarray(task.image),
        mask_image=Image.fromarray(task.mask),
        width=width,
        height=height,
        num_inference_steps=parameters.num_inference_steps,
        guidance_scale=parameters.guidance_scale,
        strength=parameters.strength,
        generator=torch.Generator().manual_seed(task.seed),
        output_type="np",
    ).images[0]
