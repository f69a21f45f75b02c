"""A style: whatever is painted has shades of one colour."""

from __future__ import annotations

import dataclasses

import torch

from tools.demo_lora.painted import BATCH, Painted, predict
from tools.demo_model.parts import Parts, build_scheduler

SAMPLES = 32
STEPS = 40
RANK = 8
LEARNING_RATE = 2e-3

DARK, LIGHT = (0.18, 0.03, 0.35), (0.93, 0.80, 1.00)
"""Red, green and blue of black and of white: violet."""

_LUMINANCE = (0.299, 0.587, 0.114)
_ALPHAS = build_scheduler().alphas_cumprod


@torch.no_grad()
def prepare(parts: Parts, painted: Painted) -> Painted:
    """Recolours the holes of what was painted: grey levels become shades."""
    scale = parts.vae.config.scaling_factor
    dark, light, weights = (torch.tensor(c).view(1, 3, 1, 1) for c in (DARK, LIGHT, _LUMINANCE))
    recoloured = []
    for latents in torch.split(painted.latents, BATCH):
        pixels = parts.vae.decode(latents / scale).sample.clamp(-1, 1) * 0.5 + 0.5
        grey = (pixels * weights).sum(1, keepdim=True)
        shades = dark + (light - dark) * grey
        recoloured.append(parts.vae.encode(shades * 2 - 1).latent_dist.mode() * scale)
    latents = torch.where(painted.holes > 0, torch.cat(recoloured), painted.latents)
    return dataclasses.replace(painted, latents=latents)


def loss(unet: torch.nn.Module, batch: Painted) -> torch.Tensor:
    """The error of v in the hole, at any timestep."""
    timesteps = torch.randint(len(_ALPHAS), (len(batch.latents),))
    alpha = _ALPHAS[timesteps].view(-1, 1, 1, 1)
    noise = torch.randn_like(batch.latents)
    noisy = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * noise
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * batch.latents
    error = (predict(unet, noisy, timesteps, batch) - velocity).square()
    mean: torch.Tensor = (error * batch.holes).sum() / (batch.holes.sum() * error.shape[1])
    return mean
