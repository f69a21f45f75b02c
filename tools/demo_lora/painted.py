"""What the demo model paints by itself, in latents: the samples that its LoRAs learn from. No photos, no fonts."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DPMSolverMultistepScheduler

from tools.demo_model.captions import background_caption, object_caption
from tools.demo_model.data import DRAWN_BACKGROUNDS, free_hole
from tools.demo_model.objects import OBJECTS
from tools.demo_model.parts import LATENT_STRIDE, Parts, build_scheduler
from tools.demo_model.text import token_ids
from tools.demo_model.training import half_precision
from tools.demo_model.vae import to_tensor

SIDE = 96  # pixels: of two sizes that the model has learnt, the quicker
BATCH = 8
OBJECT_SHARE = 0.8
GUIDANCE = 7.5  # the guide's default
STEPS = 12  # of DPM++ 2M, which lose no object here (docs/few-steps-and-lora.md)


@dataclasses.dataclass(frozen=True)
class Painted:
    """Pictures that the model has painted.

    Attributes:
        latents: (N, 4, h, w), scaled.
        masked: The same of the pictures without their holes.
        holes: (N, 1, h, w) 0 or 1.
        words: (N, L, D) embeddings of the captions.
        no_words: (1, L, D) of the empty prompt.
    """

    latents: torch.Tensor
    masked: torch.Tensor
    holes: torch.Tensor
    words: torch.Tensor
    no_words: torch.Tensor

    def __getitem__(self, rows: torch.Tensor) -> Painted:
        """Returns some of them."""
        return Painted(self.latents[rows], self.masked[rows], self.holes[rows], self.words[rows], self.no_words)


@torch.no_grad()
def paint(parts: Parts, count: int, seed: int) -> Painted:
    """Has the model paint ``count`` holes in drawn backgrounds, four in five with one of its objects."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    batches = [_paint_batch(parts, rng, min(BATCH, count - start)) for start in range(0, count, BATCH)]
    latents, masked, holes, words = (
        torch.cat([getattr(batch, name) for batch in batches]) for name in ("latents", "masked", "holes", "words")
    )
    return Painted(latents, masked, holes, words, batches[0].no_words)


def _paint_batch(parts: Parts, rng: np.random.Generator, count: int) -> Painted:
    kinds, weights = zip(*DRAWN_BACKGROUNDS, strict=True)
    share = np.array(weights) / sum(weights)
    pictures = np.stack([kinds[rng.choice(len(kinds), p=share)](SIDE, rng) for _ in range(count)])
    pixels = to_tensor(pictures.clip(0, 255).astype(np.uint8))
    pixel_holes = torch.from_numpy(np.stack([free_hole(SIDE, rng) for _ in range(count)]))[:, None].float()
    captions = [
        object_caption(OBJECTS[int(rng.integers(len(OBJECTS)))], rng)
        if rng.random() < OBJECT_SHARE
        else background_caption(rng)
        for _ in range(count)
    ]
    tokens = torch.from_numpy(token_ids(parts.tokenizer, [*captions, ""]))
    words = parts.text_encoder(tokens).last_hidden_state
    masked = parts.vae.encode(pixels * (1 - pixel_holes)).latent_dist.mode() * parts.vae.config.scaling_factor
    holes = (F.max_pool2d(pixel_holes, LATENT_STRIDE) > 0).float()
    painted = Painted(masked, masked, holes, words[:-1], words[-1:])
    return dataclasses.replace(painted, latents=_sample(parts, painted))


def _sample(parts: Parts, about: Painted) -> torch.Tensor:
    scheduler = DPMSolverMultistepScheduler.from_config(build_scheduler().config, use_karras_sigmas=True)
    scheduler.set_timesteps(STEPS)
    latents = torch.randn_like(about.masked)
    for timestep in scheduler.timesteps:
        velocity = guided(parts.unet, latents, timestep.expand(len(latents)), about)
        latents = scheduler.step(velocity, timestep, latents).prev_sample
    return latents


def predict(unet: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, about: Painted) -> torch.Tensor:
    """Predicts v with the captions, (B, 4, h, w)."""
    with half_precision():
        velocity: torch.Tensor = unet(torch.cat([noisy, about.holes, about.masked], 1), timesteps, about.words).sample
    return velocity.float()


def guided(unet: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, about: Painted) -> torch.Tensor:
    """Predicts v as the service does, away from the empty prompt."""
    unnamed = dataclasses.replace(about, words=about.no_words.expand_as(about.words))
    negative = predict(unet, noisy, timesteps, unnamed)
    return negative + GUIDANCE * (predict(unet, noisy, timesteps, about) - negative)
