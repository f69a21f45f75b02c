"""What the demo model's UNet learns from: noise, and the loss of its prediction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from tools.demo_model.samples import Batch
from tools.demo_model.training import half_precision

HOLE_WEIGHT = 6.0
# On top, for cells at the hole's border, on both sides of it: the picture's own pixels will lie beside the painted
# ones. No more than so, since the decoder is shown the picture and meets it by itself.
BORDER_WEIGHT = 3.0
# And the root of the mean square, of kept cells and of those at the border each: what the masked picture tells is to be
# read exactly, and next to a hole with much to guess its squares hardly count.
EXACT_WEIGHT = 0.1
ROUNDING = 1e-4  # of the root's corner, in units of the latents' variance
MIN_SNR_GAMMA = 5.0  # Source: Hang et al. (2023), "Efficient Diffusion Training via Min-SNR Weighting Strategy"
SNR_FLOOR = 0.3  # added to it: in noise alone the object and its place are settled, which min-SNR hardly weighs
# On top, at every timestep: a step of DDIM turns by an angle, and an error of v moves the picture by as much as that,
# little noise or not; what all steps get wrong alike adds up.
DRIFT_WEIGHT = 0.5
# Averages over blocks of so many cells are weighted by their own signal-to-noise ratio, which is higher: the hole's
# colour is settled in the first steps. Source: Hoogeboom et al. (2023), "simple diffusion", multiscale loss
LOSS_SCALES = (1, 4, 8)
SMALL_LOSS = 1.0  # of a sample; below, losses count as they are, above, by their logarithm
# Noise with a coarse part of up to this std, so that colours are taken from the surroundings at every step, and not
# from what earlier steps have left in the noise. Source: Guttenberg (2023), "Diffusion with Offset Noise"
OFFSET_NOISE = 0.3
# And a coarse part of up to this std that does not fade with the noise: where earlier steps have led while a picture is
# painted, which with little noise left would else be taken for the picture. Source: Ning et al. (2023), "Input
# Perturbation Reduces Exposure Bias in Diffusion Models"
DRIFT = 0.15
MAX_COARSE_NOISE = 1.0  # std of both together, in units of the noise's own
# The same from cell to cell, where the masked picture tells what is there: else what the first steps made of kept cells
# stays so to the end, though later steps could read it better.
KEPT_DRIFT = 0.3  # std, up to which, in kept cells; half of it in the hole's first cells
COARSE_GRIDS = (3, 6)  # points along each side, between which the coarse part is smooth
# With much noise no caption means background: guidance leads to the object, and is the same on both sides where the
# hole shows background, which else gets a haze. Below this timestep it may be an object too, which the noise shows by
# then: guidance has nothing left to add, and does not go on to make its colours too strong.
OBJECTS_UNNAMED_BELOW = 600
UNNAMED_SHARE = 0.3


def noise_with_drift(latents: torch.Tensor, snr: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """Normal noise of the shape of ``latents`` (B, 4, h, w), with parts of random strength that fade less.

    ``snr`` (B, 1, 1, 1) is what it will be mixed in at: what does not fade with the noise is many times as large as it.
    ``told`` (B, 1, h, w) in [0, 1] is how far the masked picture tells of a cell.
    """
    count, channels, *sides = latents.shape
    strength = (OFFSET_NOISE + DRIFT * snr.sqrt()).clamp(max=MAX_COARSE_NOISE) * torch.rand_like(snr)
    grid = COARSE_GRIDS[int(torch.randint(len(COARSE_GRIDS), ()))]
    coarse = F.interpolate(latents.new_empty(count, channels, grid, grid).normal_(), size=sides, mode="bilinear")
    fine = (KEPT_DRIFT * snr.sqrt()).clamp(max=1) * torch.rand_like(snr) * told
    return torch.randn_like(latents) * (1 + fine.square()).sqrt() + strength * coarse


def unet_loss(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    response: torch.Tensor,
    batch: Batch,
    alphas: torch.Tensor,
) -> torch.Tensor:
    """Min-SNR weighted error of v at several scales, the hole counting most; its root where the picture is told.

    Errors count by what would be seen of them: ``response`` is what ``vae.decoder_response`` gives. ``alphas`` is
    cumulative, (1000,). Of large losses the logarithm counts: a flat background, where the least error shows, is not
    to be drowned by one with much to guess; nor are objects, all of which are much to guess in noise alone.
    """
    count = len(batch.latents)
    # Fewer of the least noisy steps, which have nothing left to decide.
    device = batch.latents.device
    timesteps = (torch.rand(count, device=device) ** 0.75 * len(alphas)).long()
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    snr = alpha / (1 - alpha)
    kept = 1 - batch.holes
    near_hole, near_kept = (F.max_pool2d(cells, 3, stride=1, padding=1) for cells in (batch.holes, kept))
    border = near_hole * near_kept
    noise = noise_with_drift(batch.latents, snr, told=kept + 0.5 * batch.holes * near_kept)
    noisy = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * noise
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * batch.latents
    is_unnamed = (timesteps < OBJECTS_UNNAMED_BELOW) & (torch.rand(count, device=device) < UNNAMED_SHARE)
    tokens = torch.where(is_unnamed[:, None], batch.no_tokens, batch.tokens)
    with half_precision():
        words = text_encoder(tokens).last_hidden_state
        predicted = unet(torch.cat([noisy, batch.holes, batch.masked], 1), timesteps, words).sample
    place = 1 + (HOLE_WEIGHT - 1) * batch.holes + BORDER_WEIGHT * border
    place = place / place.mean()
    error = F.conv2d(predicted.float() - velocity, response, padding=1)
    loss = torch.zeros(count, device=device)
    for cells in LOSS_SCALES:
        share = F.avg_pool2d(place, cells)
        mean_error = F.avg_pool2d(error * place, cells) / share
        weight = ((cells**2 * snr).clamp(max=MIN_SNR_GAMMA) + SNR_FLOOR) / (1 + snr) + DRIFT_WEIGHT
        loss = loss + (weight * share * mean_error.square()).mean((1, 2, 3))
    loss = (loss / SMALL_LOSS).log1p() * SMALL_LOSS
    for region in (kept, border):
        squares = error.square().mean(1, keepdim=True) * region
        mean_square = squares.sum((1, 2, 3)) / region.sum((1, 2, 3)).clamp(min=1)
        loss = loss + EXACT_WEIGHT * (mean_square + ROUNDING).sqrt()
    return loss.mean()
