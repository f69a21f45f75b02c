"""Pictures as the UNet itself paints them, step by step with guidance: what it has to mend is what it has done."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

from tools.demo_model.detail import detail_loss
from tools.demo_model.parts import LATENT_STRIDE
from tools.demo_model.samples import Batch
from tools.demo_model.sprite_words import with_captions
from tools.demo_model.training import half_precision
from tools.demo_model.unet import (
    ATTENTION_WEIGHT,
    CAPTION_TOKENS,
    SKETCH_WEIGHT,
    SMALL_LOSS,
    CrossAttention,
    Sketch,
    attention_loss,
)

STEPS = (10, 30)  # of DDIM, from one to the other
GUIDANCE = (1.0, 3.0, 5.0, 7.5, 7.5, 7.5)  # the guide's default half of the time
OBJECT_WEIGHT = 8.0  # of cells that an object changes and their neighbours
AROUND_WEIGHT = 2.0  # of the rest of the hole
CHANGED = 0.1  # of a latent, from which on a cell counts as changed by an object
BLOCK = 4  # cells along each side of a block of a background whose mean can be told
DETAIL_WEIGHT = 0.15  # of a background's detail, where there is no noise
LEAST_NOISE = 0.15  # of the variance; a step with less counts as with so much


class Rollout:
    """Paints batches of objects step by step, and says what is wrong with each step.

    Guidance leads the first steps too far and adds up what they were not sure of. Noise that is drawn does not have
    that; what a painted picture has of it, later steps have to see through. Around the object, a step is to be what it
    would be without one: the picture that was taken there is one of many, and only their mean could be learnt, a haze.
    So of a background its coarse colours are told, and how much detail there is to be, not which.

    Args:
        batches: Of samples.
        sprite_words: (N + 1, 64, 128), what ``sprite_words.sprite_words`` gives.
        response: What ``vae.decoder_response`` gives.
        alphas: Cumulative, (1000,).
    """

    def __init__(
        self, batches: Iterator[Batch], sprite_words: torch.Tensor, response: torch.Tensor, alphas: torch.Tensor
    ) -> None:
        self.batches, self.sprite_words, self.response, self.alphas = batches, sprite_words, response, alphas
        self.timesteps: list[int] = []

    def _start(self) -> None:
        self.batch = next(self.batches)
        count, device = len(self.batch.latents), self.batch.latents.device
        steps = int(torch.randint(STEPS[0], STEPS[1] + 1, ()))
        stride = len(self.alphas) // steps
        # As diffusers spaces them: leading, one on.
        self.timesteps = [stride * i + 1 for i in range(steps)]
        self.latents = torch.randn_like(self.batch.latents)
        lengths = torch.randint(*CAPTION_TOKENS, (count,), device=device)
        self.words = with_captions(self.sprite_words[self.batch.sprites], lengths)  # the last ones, -1, are nothing
        nothing = self.sprite_words[-1].expand(count, -1, -1)
        self.no_words = with_captions(nothing, torch.full_like(lengths, 2))
        self.is_object = (self.batch.sprites >= 0).float().view(-1, 1, 1, 1)
        self.pictures = _linear_pictures(self.batch.latents, self.response)
        self.pixel_holes = F.interpolate(self.batch.holes, scale_factor=LATENT_STRIDE)
        choice = torch.randint(len(GUIDANCE), (count,), device=device)
        self.guidance = torch.tensor(GUIDANCE, device=device)[choice].view(-1, 1, 1, 1)
        changed = (self.batch.latents - self.batch.backgrounds).abs().amax(1, keepdim=True) > CHANGED
        self.by_object = F.max_pool2d(changed.float(), 3, stride=1, padding=1)
        weight = 1 + self.batch.holes * (AROUND_WEIGHT - 1 + (OBJECT_WEIGHT - AROUND_WEIGHT) * self.by_object)
        self.weight = weight / weight.mean((1, 2, 3), keepdim=True)

    def loss(self, unet: UNet2DConditionModel, watched: list[CrossAttention], sketch: Sketch) -> torch.Tensor:
        """Error of the next step's picture, as ``unet_loss`` counts errors; takes that step, or starts anew."""
        if not self.timesteps:
            self._start()
        batch, timestep = self.batch, self.timesteps.pop()
        timesteps = torch.full((len(batch.latents),), timestep, device=batch.latents.device)
        alpha = self.alphas[timestep]
        after = self.alphas[self.timesteps[-1]] if self.timesteps else torch.ones_like(alpha)
        inputs = torch.cat([self.latents, batch.holes, batch.masked], 1)
        with half_precision():
            velocity = unet(inputs, timesteps, self.words).sample.float()
        beside = ATTENTION_WEIGHT * attention_loss(watched, batch) + SKETCH_WEIGHT * sketch(batch)
        with torch.no_grad():
            with half_precision():
                unnamed = unet(inputs, timesteps, self.no_words).sample.float()
            guided = unnamed + self.guidance * (velocity.detach() - unnamed)
            clean = alpha.sqrt() * self.latents - (1 - alpha).sqrt() * guided
            noise = (1 - alpha).sqrt() * self.latents + alpha.sqrt() * guided
            told = self.latents
            unnamed = alpha.sqrt() * told - (1 - alpha).sqrt() * unnamed
            self.latents = after.sqrt() * clean + (1 - after).sqrt() * noise
        painted = alpha.sqrt() * told - (1 - alpha).sqrt() * velocity
        error = F.conv2d(painted - self._wanted(painted.detach(), unnamed), self.response, padding=1)
        mean = (self.weight * error.square()).mean((1, 2, 3)) / (1 - alpha).clamp(min=LEAST_NOISE)
        of_detail = detail_loss(_linear_pictures(painted, self.response), self.pictures, self.pixel_holes)
        beside = beside + DETAIL_WEIGHT * alpha * (of_detail * (1 - self.is_object.flatten())).mean()
        return ((mean / SMALL_LOSS).log1p() * SMALL_LOSS).mean() + beside

    def _wanted(self, painted: torch.Tensor, unnamed: torch.Tensor) -> torch.Tensor:
        """What should have been ``painted``, (B, 4, h, w); ``unnamed`` is what was without a caption."""
        batch = self.batch
        share = F.avg_pool2d(batch.holes, BLOCK).clamp(min=1e-3)
        coarse = F.avg_pool2d((batch.latents - painted) * batch.holes, BLOCK) / share
        background = painted + F.interpolate(coarse, scale_factor=BLOCK)
        guessed = background.lerp(unnamed, self.is_object)
        border = F.max_pool2d(1 - batch.holes, 3, stride=1, padding=1)
        is_guessed = batch.holes * (1 - self.by_object) * (1 - border * (1 - self.is_object))
        return batch.latents.lerp(guessed, is_guessed)


def _linear_pictures(latents: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
    """Nearly what the decoder makes of latents (B, 4, h, w), at a constant scale: (B, 3, 4h, 4w)."""
    pixels = F.conv2d(latents, response[: 3 * LATENT_STRIDE**2], padding=1)
    return F.pixel_shuffle(pixels, LATENT_STRIDE)
