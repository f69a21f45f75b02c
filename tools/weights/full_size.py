#!/usr/bin/env python3
"""Writes a model with Stable Diffusion 1.5's real inpainting configs and random weights, for benchmarks and tests.

    scripts/make_full_size_model.py FOLDER

2.1 GB in float16, in diffusers' layout, with the file names of the Hub's fp16 variant. It paints noise, at the cost
of the real thing. The same seed gives the same files.
"""

import argparse
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils import logging as transformers_logging

import sd_inpaint

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
SCHEDULERS: dict[str, Any] = {"pndm": PNDMScheduler, "ddim": DDIMScheduler}


def main() -> int:
    """Writes the folder; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to; must not exist, or be empty")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default: %(default)s)")
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="pndm", help="(default: %(default)s)")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    # The vocabulary is the embedded model's: any text can be written in it, and its ids lie within the real model's.
    embedded = Path(sd_inpaint.__file__).parent / "demo_model"
    shutil.copytree(embedded / "tokenizer", folder / "tokenizer")
    SCHEDULERS[arguments.scheduler](
        **SCHEDULER, **({"skip_prk_steps": True} if arguments.scheduler == "pndm" else {"clip_sample": False})
    ).save_pretrained(folder / "scheduler")

    # On "meta", a module has shapes and no numbers: making it takes no time and no memory.
    with torch.device("meta"):
        modules: dict[str, Any] = {
            "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER)),
            "vae": AutoencoderKL(**VAE),
            "unet": UNet2DConditionModel(**UNET),
        }
    generator = torch.Generator().manual_seed(arguments.seed)
    for name in list(modules):
        module = modules.pop(name).to(torch.float16).to_empty(device="cpu")
        _fill(name, module, generator)
        module.save_pretrained(folder / name, variant="fp16")
        del module

    index = (embedded / "model_index.json").read_text("utf-8")
    index = index.replace('"DDIMScheduler"', f'"{SCHEDULERS[arguments.scheduler].__name__}"')
    (folder / "model_index.json").write_text(index, "utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e9:.2f} GB")
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
