"""What the demo model's decoder learns: to fit what the UNet paints to the picture around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AsymmetricAutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from tools.demo_model.samples import Batch
from tools.demo_model.training import half_precision
from tools.demo_model.vae import LATENT_NOISE, to_tensor, visible_error

NEAR = 6  # pixels from the hole's border within which errors count more
NEAR_WEIGHT = 3.0  # on top
STEP_WEIGHT = 2.0  # of the difference between neighbours, where one of them is kept
# Of kept pixels. The service takes most of them from the picture, but not those at a feathered mask's rim.
KEPT_WEIGHT = 0.5
SMALL_ERROR = 0.02  # of a sample, 2.5 levels; an error counts by its part of the sample's own, which counts as no less
SMALL_SHARE = 0.01  # of a batch's pixels; what is less counts as so much
PLAIN_SHARE = 4  # one in so many pictures is also decoded without being shown, as any autoencoder's
FIRST_TIMESTEPS, SECOND_TIMESTEPS = (0.1, 0.9), (0.02, 0.3)  # shares of the noise schedule


@torch.no_grad()
def painted_latents(
    unet: UNet2DConditionModel, text_encoder: CLIPTextModel, batch: Batch, alphas: torch.Tensor
) -> torch.Tensor:
    """What the UNet makes of a picture: latents (B, 4, h, w) near the true ones, wrong as painted ones are.

    The drift of a painted picture comes from steps with much noise, its detail from those with little. So it is one of
    each: from the noisy truth to a guess, by DDIM to less noise, and from there to the next guess.
    """

    def some_timesteps(low: float, high: float) -> torch.Tensor:
        return ((low + (high - low) * torch.rand(count, device=batch.latents.device)) * len(alphas)).long()

    def guess(noisy: torch.Tensor, timesteps: torch.Tensor, alpha: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = torch.cat([noisy, batch.holes, batch.masked], 1)
        velocity = unet(inputs, timesteps, words).sample.float()
        clean = alpha.sqrt() * noisy - (1 - alpha).sqrt() * velocity
        noise = (1 - alpha).sqrt() * noisy + alpha.sqrt() * velocity
        return clean, noise

    count = len(batch.latents)
    first, second = some_timesteps(*FIRST_TIMESTEPS), some_timesteps(*SECOND_TIMESTEPS)
    second = torch.minimum(first, second)
    alpha_first, alpha_second = (alphas[t].view(-1, 1, 1, 1) for t in (first, second))
    with half_precision():
        words = text_encoder(batch.tokens).last_hidden_state
        noisy = alpha_first.sqrt() * batch.latents + (1 - alpha_first).sqrt() * torch.randn_like(batch.latents)
        clean, noise = guess(noisy, first, alpha_first)
        clean, _ = guess(alpha_second.sqrt() * clean + (1 - alpha_second).sqrt() * noise, second, alpha_second)
    return clean


def decoder_loss(
    vae: AsymmetricAutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    batch: Batch,
    alphas: torch.Tensor,
) -> torch.Tensor:
    """Mean error in the hole of what the UNet painted, decoded beside the kept pixels.

    Both sides of the border are the result's: kept pixels the picture's own, the hole's decoded. Of a sample's error
    nearly the logarithm counts, so that flat backgrounds, where the least step is seen, are not drowned by what has to
    be guessed. ``alphas`` is cumulative, (1000,).
    """
    pictures, holes = to_tensor(batch.pictures), batch.pixel_holes[:, None].float()
    latents = painted_latents(unet, text_encoder, batch, alphas)
    some = -(-len(pictures) // PLAIN_SHARE)
    plain_latents = batch.latents[:some] + LATENT_NOISE * torch.randn_like(batch.latents[:some])
    with half_precision():
        painted = vae.decode(latents / vae.config.scaling_factor, image=pictures, mask=holes).sample.float()
        plain = vae.decode(plain_latents / vae.config.scaling_factor).sample.float()
    difference = painted - pictures
    own = (difference * holes).abs().mean((1, 2, 3), keepdim=True) / holes.mean((1, 2, 3), keepdim=True)
    weight_of_sample = 1 / (own.detach() + SMALL_ERROR)
    difference = difference * weight_of_sample / weight_of_sample.mean()
    near = F.max_pool2d(torch.cat([holes, 1 - holes], 1), 2 * NEAR + 1, stride=1, padding=NEAR).prod(1, keepdim=True)
    loss: torch.Tensor = visible_error(plain - pictures[:some])
    for region, weight in ((holes, 1.0), (1 - holes, KEPT_WEIGHT)):
        share = region.mean().clamp(min=SMALL_SHARE)
        loss = loss + weight * visible_error(difference * region * (1 + NEAR_WEIGHT * near)) / share
    for axis in (-1, -2):
        across = holes.diff(dim=axis).abs()
        step = (difference * holes).diff(dim=axis).abs() * across
        loss = loss + STEP_WEIGHT * step.sum() / (3 * across.sum().clamp(min=1))
    return loss


@torch.no_grad()
def fitting_errors(
    vae: AsymmetricAutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    batch: Batch,
    alphas: torch.Tensor,
) -> tuple[float, float]:
    """Mean absolute error in grey levels (0..255) in the hole and in what is kept, of painted latents decoded so."""
    pictures, holes = to_tensor(batch.pictures), batch.pixel_holes[:, None].float()
    latents = painted_latents(unet, text_encoder, batch, alphas) / vae.config.scaling_factor
    error = (vae.decode(latents, image=pictures, mask=holes).sample.clamp(-1, 1) - pictures).abs().mean(1, keepdim=True)
    hole, kept = (float((error * region).sum() / region.sum()) for region in (holes, 1 - holes))
    return 127.5 * hole, 127.5 * kept
