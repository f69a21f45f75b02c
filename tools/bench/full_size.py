"""A model with Stable Diffusion 1.5's real inpainting configs and random weights, for benchmarks and tests.

2.1 GB in float16, in diffusers' layout, with the file names of the Hub's fp16 variant. It paints noise, at the cost
of the real thing. The same seed gives the same files.
"""

import argparse
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
from sd_inpaint.errors import InpaintError, WeightsError
from sd_inpaint.model_store.stable_diffusion import SCHEDULER, TEXT_ENCODER, UNET, VAE
from tools import ROOT

FOLDER = ROOT / "build" / "full_size_model"
"""Where benchmarks have it."""

TOKENIZER = Path(sd_inpaint.__file__).parent / "demo_model" / "tokenizer"

SCHEDULERS: dict[str, Any] = {
    "pndm": (PNDMScheduler, SCHEDULER | {"skip_prk_steps": True}),
    "ddim": (DDIMScheduler, SCHEDULER | {"clip_sample": False}),
}
"""Name → class and config."""


def main() -> None:
    """Writes one into a folder; the store is not touched."""
    parser = argparse.ArgumentParser(prog="scripts/models full-size", description=__doc__)
    parser.add_argument("folder", type=Path, help="target folder; must be empty or not exist")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default: %(default)s)")
    parser.add_argument("--scheduler", choices=tuple(SCHEDULERS), default="pndm", help="(default: %(default)s)")
    args = parser.parse_args()
    try:
        write(args.folder, scheduler=args.scheduler, seed=args.seed)
    except InpaintError as error:
        sys.exit(str(error))


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


if __name__ == "__main__":
    main()
