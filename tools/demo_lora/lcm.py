"""Few steps: the model learns to say at once where its own guided steps would lead.

Source: Luo et al. (2023), "Latent Consistency Models", algorithm 1, with the weights of a LoRA as in "LCM-LoRA". The
teacher is the same UNet without the LoRA; the target network is the student as it is, without an average.
"""

from __future__ import annotations

from typing import Any

import torch

from tools.demo_lora.painted import Painted, guided, predict
from tools.demo_model.parts import Parts, build_scheduler

SAMPLES = 256
STEPS = 300
RANK = 32
LEARNING_RATE = 1e-3

SOLVER_STEPS = 50  # of DDIM, over which the student is consistent; LCMScheduler's original_inference_steps
SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0  # LCMScheduler's own
HUBER = 0.001  # corner of the loss

_SCHEDULER = build_scheduler()
_ALPHAS = _SCHEDULER.alphas_cumprod
_STRIDE = len(_ALPHAS) // SOLVER_STEPS


def prepare(parts: Parts, painted: Painted) -> Painted:
    """Takes what was painted as it is."""
    del parts
    return painted


def loss(unet: Any, batch: Painted) -> torch.Tensor:
    """The distance of two answers: from a noise level, and from the next lower one, to which the teacher leads."""
    timesteps = torch.randint(1, SOLVER_STEPS + 1, (len(batch.latents),)) * _STRIDE - 1
    earlier = timesteps - _STRIDE
    noise = torch.randn_like(batch.latents)
    alpha, sigma = _levels(timesteps)
    noisy = alpha * batch.latents + sigma * noise
    with torch.no_grad():
        unet.disable_adapters()
        velocity = guided(unet, noisy, timesteps, batch)
        unet.enable_adapters()
        # One step of DDIM.
        clean, direction = alpha * noisy - sigma * velocity, sigma * noisy + alpha * velocity
        alpha_earlier, sigma_earlier = _levels(earlier)
        less_noisy = alpha_earlier * clean + sigma_earlier * direction
        target = answer(unet, less_noisy, earlier.clamp(min=0), batch)
        target = torch.where((earlier < 0).view(-1, 1, 1, 1), less_noisy, target)
    error = answer(unet, noisy, timesteps, batch) - target
    weight = 1 + 3 * batch.holes  # the kept part is given; the hole is what there is to learn
    return (((error.square() + HUBER**2).sqrt() - HUBER) * weight).mean()


def answer(unet: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, batch: Painted) -> torch.Tensor:
    """The consistency function, as LCMScheduler evaluates it: the clean latents, (B, 4, h, w)."""
    scaled = timesteps.view(-1, 1, 1, 1) * TIMESTEP_SCALING
    skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
    out = scaled / (scaled**2 + SIGMA_DATA**2) ** 0.5
    alpha, sigma = _levels(timesteps)
    return skip * noisy + out * (alpha * noisy - sigma * predict(unet, noisy, timesteps, batch))


def _levels(timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Signal and noise at timesteps, (B, 1, 1, 1) each; no noise is left below 0."""
    alphas = torch.where(timesteps < 0, torch.ones(()), _ALPHAS[timesteps.clamp(min=0)]).view(-1, 1, 1, 1)
    return alphas.sqrt(), (1 - alphas).sqrt()
