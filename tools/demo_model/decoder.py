"""What the demo model's decoder learns: to fit what the UNet paints to the picture around it, colour and texture."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from diffusers import AsymmetricAutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from tools.demo_model.detail import detail_loss
from tools.demo_model.parts import build_scheduler
from tools.demo_model.samples import Batch
from tools.demo_model.sprite_words import with_captions
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
STEPS = (8, 20)  # of DDIM, from one to the other
GUIDANCE = 7.5
CAPTION_LENGTH = 7  # tokens
BLOCK = 8  # pixels along each side of a block of a background whose colour can be told
# A haze has the least mean error. What makes it a picture: as much detail in every part of the hole as there was, and
# a critic that does not find the hole.
DETAIL_WEIGHT = 0.15
CRITIC_WEIGHT = 0.05


class Critic(nn.Module):
    """Tells painted from photographed, for overlapping parts of some thirty pixels."""

    def __init__(self) -> None:
        super().__init__()
        shapes = ((4, 32, 4, 2), (32, 64, 4, 2), (64, 96, 3, 1), (96, 1, 3, 1))
        self.layers = nn.ModuleList(spectral_norm(nn.Conv2d(a, b, k, s, padding=1)) for a, b, k, s in shapes)

    def forward(self, pictures: torch.Tensor, holes: torch.Tensor) -> torch.Tensor:
        """Takes (B, 3, H, W) in [-1, 1] and (B, 1, H, W); gives (B, 1, h, w), higher for a photograph."""
        x = torch.cat([pictures, holes * 2 - 1], 1)
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), 0.2)
        judged: torch.Tensor = self.layers[-1](x)
        return judged


def critic_loss(critic: Critic, painted: torch.Tensor, pictures: torch.Tensor, holes: torch.Tensor) -> torch.Tensor:
    """The hinge loss of a critic that is shown both, where there is a hole."""
    with half_precision():
        of_painted, of_pictures = critic(torch.cat([painted, pictures]), torch.cat([holes, holes])).float().chunk(2)
    place = F.adaptive_avg_pool2d(holes, of_painted.shape[-2:])
    return (place * (F.relu(1 + of_painted) + F.relu(1 - of_pictures))).sum() / place.sum().clamp(min=1)


@dataclasses.dataclass(frozen=True)
class Painted:
    """Samples, and what the UNet paints for them: latents (B, 4, h, w), scaled."""

    samples: Batch
    latents: torch.Tensor


@torch.no_grad()
def paint(unet: UNet2DConditionModel, sprite_words: torch.Tensor, samples: Batch) -> Painted:
    """Paints from noise alone, as the service does: with guidance, in some number of steps."""
    scheduler = build_scheduler()
    scheduler.set_timesteps(int(torch.randint(STEPS[0], STEPS[1] + 1, ())), samples.latents.device)
    rows = torch.cat([torch.full_like(samples.sprites, -1), samples.sprites])
    words = with_captions(sprite_words[rows], torch.full_like(rows, CAPTION_LENGTH))
    latents = torch.randn_like(samples.latents)
    for timestep in scheduler.timesteps:
        inputs = torch.cat([latents, samples.holes, samples.masked], 1).repeat(2, 1, 1, 1)
        with half_precision():
            without, told = unet(inputs, timestep, words).sample.float().chunk(2)
        latents = scheduler.step(without + GUIDANCE * (told - without), timestep, latents).prev_sample
    return Painted(samples, latents)


def decoder_loss(
    vae: AsymmetricAutoencoderKL, critic: Critic, painted: Painted, shown: list[tuple[torch.Tensor, ...]]
) -> torch.Tensor:
    """Error of what the UNet painted, decoded beside the kept pixels; error of its detail; and what a critic says.

    Both sides of the border are the result's: kept pixels the picture's own, the hole's decoded. Of a background only
    the colour of blocks can be told, and what lies at the border. Of a sample's error nearly the logarithm counts, so
    that flat backgrounds, where the least step is seen, are not drowned by what has to be guessed. Adds to ``shown``
    what the critic is to learn from: the arguments of ``critic_loss`` after the first.
    """
    batch, scale = painted.samples, vae.config.scaling_factor
    pictures, holes = to_tensor(batch.pictures), batch.pixel_holes[:, None].float()
    some = -(-len(pictures) // PLAIN_SHARE)
    plain_latents = batch.latents[:some] + LATENT_NOISE * torch.randn_like(batch.latents[:some])
    with half_precision():
        decoded = vae.decode(painted.latents / scale, image=pictures, mask=holes).sample.float()
        plain = vae.decode(plain_latents / scale).sample.float()
    result = torch.where(holes > 0, decoded, pictures)
    shown.append((result.detach(), pictures, holes))
    near = F.max_pool2d(torch.cat([holes, 1 - holes], 1), 2 * NEAR + 1, stride=1, padding=NEAR).prod(1, keepdim=True)
    difference = that_can_be_told(decoded - pictures, batch, holes * (1 - near))
    own = (difference * holes).abs().mean((1, 2, 3), keepdim=True) / holes.mean((1, 2, 3), keepdim=True)
    weight_of_sample = 1 / (own.detach() + SMALL_ERROR)
    difference = difference * weight_of_sample / weight_of_sample.mean()
    loss: torch.Tensor = visible_error(plain - pictures[:some])
    for region, weight in ((holes, 1.0), (1 - holes, KEPT_WEIGHT)):
        share = region.mean().clamp(min=SMALL_SHARE)
        loss = loss + weight * visible_error(difference * region * (1 + NEAR_WEIGHT * near)) / share
    for axis in (-1, -2):
        across = holes.diff(dim=axis).abs()
        step = (difference * holes).diff(dim=axis).abs() * across
        loss = loss + STEP_WEIGHT * step.sum() / (3 * across.sum().clamp(min=1))
    with half_precision():
        judged = critic(result, holes).float()
    place = F.adaptive_avg_pool2d(holes, judged.shape[-2:])
    loss = loss - CRITIC_WEIGHT * (judged * place).sum() / place.sum().clamp(min=1)
    return loss + DETAIL_WEIGHT * detail_loss(result, pictures, holes).mean()


def that_can_be_told(difference: torch.Tensor, batch: Batch, guessed: torch.Tensor) -> torch.Tensor:
    """The difference (B, 3, H, W), but where a background is ``guessed``, (B, 1, H, W), the mean of its blocks."""
    share = F.avg_pool2d(guessed, BLOCK).clamp(min=1e-3)
    coarse = F.interpolate(F.avg_pool2d(difference * guessed, BLOCK) / share, scale_factor=BLOCK)
    is_background = (batch.sprites < 0).view(-1, 1, 1, 1)
    return torch.where((guessed > 0) & is_background, coarse, difference)


@torch.no_grad()
def fitting_errors(vae: AsymmetricAutoencoderKL, painted: Painted) -> tuple[float, float, float]:
    """Errors of painted latents decoded so: in the hole and in what is kept, of 255 levels; and of the detail."""
    batch = painted.samples
    pictures, holes = to_tensor(batch.pictures), batch.pixel_holes[:, None].float()
    decoded = vae.decode(painted.latents / vae.config.scaling_factor, image=pictures, mask=holes).sample.clamp(-1, 1)
    error = (decoded - pictures).abs().mean(1, keepdim=True)
    hole, kept = (float((error * region).sum() / region.sum()) for region in (holes, 1 - holes))
    return 127.5 * hole, 127.5 * kept, float(detail_loss(decoded, pictures, holes).mean())
