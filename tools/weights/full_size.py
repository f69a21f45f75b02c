"""A model with Stable Diffusion 1.5's real inpainting configs and random weights, for benchmarks and tests.

2.1 GB in float16, in diffusers' layout, with the file names of the Hub's fp16 variant. It paints noise, at the cost
of the real thing. The same seed gives the same files.
"""

import math
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

import sd_inpaint
from sd_inpaint.diffusion import sources
from sd_inpaint.errors import WeightsError
from tools import ROOT

FOLDER = ROOT / "build" / "full_size_model"
"""Where benchmarks have it."""

# Source: the config.json files of stable-diffusion-v1-5/stable-diffusion-inpainting at 8a4288a7.
UNET: dict[str, Any] = {
    "in_channels": 9,
    "out_channels": 4,
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "sample_size": 512,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
TEXT_ENCODER: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
TOKENIZER = Path(sd_inpaint.__file__).parent / "demo_model" / "tokenizer"

SCHEDULERS: dict[str, Any] = {
    "pndm": (PNDMScheduler, SCHEDULER | {"skip_prk_steps": True}),
    "ddim": (DDIMScheduler, SCHEDULER | {"clip_sample": False}),
}
"""Name → class and config."""


def for_benchmarks() -> Path:
    """Gives :data:`FOLDER`, which is written where it is missing or was not finished."""
    if not (FOLDER / sources.INDEX).is_file():
        shutil.rmtree(FOLDER, ignore_errors=True)
        write(FOLDER)
    return FOLDER


def write(
    folder: Path,
    *,
    scheduler: str = "pndm",
    seed: int = 0,
    unet: Mapping[str, Any] = UNET,
    vae: Mapping[str, Any] = VAE,
    text_encoder: Mapping[str, Any] = TEXT_ENCODER,
) -> None:
    """Writes the model; the index comes last, so a folder that has one is whole.

    Args:
        folder: Is made; may be there if it is empty.
        scheduler: One of SCHEDULERS.
        seed: Of the random weights.
        unet: Config, by default the real one.
        vae: Likewise.
        text_encoder: Likewise; its vocabulary has to hold the demo model's.

    Raises:
        WeightsError: If the folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise WeightsError(f"{folder} is not empty.\nGive a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    for logs in (diffusers_logging, transformers_logging):
        logs.set_verbosity_error()
        logs.disable_progress_bar()
    # The vocabulary is the demo model's: any text can be written in it, and its ids lie within the real model's.
    shutil.copytree(TOKENIZER, folder / "tokenizer")
    pipeline = _unfilled(scheduler, unet, vae, text_encoder)
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    generator = torch.Generator().manual_seed(seed)
    for name in ("text_encoder", "vae", "unet"):
        module = getattr(pipeline, name).to(torch.float16).to_empty(device="cpu")
        _fill(name, module, generator)
        module.save_pretrained(folder / name, variant="fp16")
    pipeline.save_config(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e9:.2f} GB")


def _unfilled(scheduler: str, unet: Mapping[str, Any], vae: Mapping[str, Any], text_encoder: Mapping[str, Any]) -> Any:
    """Makes a pipeline of shapes: on "meta", a module has no numbers, and takes no time and no memory to make."""
    # Only here, since it warns of an image processor that nothing uses, unless the logs are silent.
    from diffusers import StableDiffusionInpaintPipeline

    with torch.device("meta"):
        modules = {
            "unet": UNet2DConditionModel(**unet),
            "vae": AutoencoderKL(**vae),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**text_encoder)),
        }
    kind, config = SCHEDULERS[scheduler]
    return StableDiffusionInpaintPipeline(
        **modules,
        tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
        scheduler=kind(**config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@torch.no_grad()
def _fill(name: str, module: torch.nn.Module, generator: torch.Generator) -> None:
    """Gives every parameter a value that keeps activations finite in float16, showing how far it has come."""
    total = sum(parameter.numel() for parameter in module.parameters())
    started, done = time.monotonic(), 0
    for key, parameter in module.named_parameters():
        if parameter.ndim < 2:
            # Norms keep what they are given, biases add nothing.
            parameter.fill_(1.0 if key.endswith("weight") else 0.0)
        elif "embedding" in key and "time_embedding" not in key:
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, 0.02, generator=generator))
        else:
            # torch's own for linear and convolution layers: uniform, of variance 1 / (3 × inputs).
            bound = 1.0 / math.sqrt(parameter[0].numel())
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
        done += parameter.numel()
        _show(name, done / total, time.monotonic() - started, last=done == total)


def _show(name: str, share: float, seconds: float, *, last: bool) -> None:
    if sys.stdout.isatty() or last:
        end = "\n" if last else ""
        print(f"\r{name:12} {share:4.0%}  {seconds:3.0f} s", end=end, flush=True)
