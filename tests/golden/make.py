"""Writes denoiser.json: one canvas painted by diffusers' pipeline, not by this project. See README.md beside this."""

import json

import diffusers
import torch

from tests.support.canvases import GOLDEN, make_task, paint_with_diffusers
from tests.support.tiny_model import make_components

TASK = {"size": (64, 64), "hole": (16, 8, 48, 40), "seed": 42, "num_inference_steps": 8, "guidance_scale": 7.5}


def main() -> None:
    """Paints the canvas and writes the means of its blocks."""
    canvas = paint_with_diffusers(make_components(), make_task(**TASK)) * 255  # type: ignore[arg-type]
    means = canvas.reshape(8, 8, 8, 8, 3).mean((1, 3)).round(1)
    made_by = f"diffusers {diffusers.__version__}, torch {torch.__version__}: StableDiffusionInpaintPipeline"
    golden = {"made_by": made_by, "task": TASK, "block_means": means.tolist()}
    GOLDEN.write_text(json.dumps(golden) + "\n", "utf-8")


if __name__ == "__main__":
    main()
