"""What the demo model's UNet learns from: noise, and the loss of its prediction and of where it looks."""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from tools.demo_model.samples import Batch
from tools.demo_model.sprite_words import FIRST, GRID, patch_order, with_captions
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
# With much noise no caption means background: guidance leads to the object. Below this timestep it may be an object
# too, which the noise shows by then: guidance has nothing left to add, and does not make its colours too strong.
OBJECTS_UNNAMED_BELOW = 920
UNNAMED_SHARE = 0.2
# Until then guidance has led too far, by several times the difference between object and background. Later steps have
# to see through that: so much of the difference, up to this, is a part of the noise in half of the samples of an object
# that is named. Where it is not, the noise is believed: then guidance leads back, as many times as strongly.
OVERSHOOT = 2.0
OVERSHOOT_BLUR = (1, 3, 7)  # latent cells over which it is smoothed: the first steps are not sure of the outline
CAPTION_TOKENS = (4, 20)  # of captions, the marks at both ends included
# Where the attention of the first heads of each layer lies, against the patches that belong there. Without it the UNet
# has to find by itself that the tokens are a picture.
ATTENTION_WEIGHT = 0.15
GUIDED_HEADS = 3
SKETCH_WEIGHT = 0.3
SKETCH_CELLS = 2  # latent cells along each side of a cell of the layers that look at the text last


class CrossAttention:
    """Attention to the text that keeps its probabilities, for the thread that called it; else as diffusers' own.

    Source: the interface of diffusers' ``AttnProcessor``.
    """

    def __init__(self) -> None:
        self.kept = threading.local()

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Takes (B, cells, width) and (B, 77, 128); gives (B, cells, width)."""
        query, key, value = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
        scores = (query @ key.transpose(-1, -2)).float() * attn.scale
        self.kept.scores = scores
        attended = scores.softmax(-1).to(value.dtype) @ value
        return attn.to_out[0](attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def watch_attention(unet: UNet2DConditionModel) -> list[CrossAttention]:
    """Makes the UNet keep where it attends to the text; gives what keeps it, a layer each. It cannot be copied then."""
    watched = []
    for layer in unet.attn_processors:
        if ".attn2." in layer:
            module = unet.get_submodule(layer.removesuffix(".processor"))
            watched.append(CrossAttention())
            module.set_processor(watched[-1])
    return watched


def attention_loss(watched: list[CrossAttention], batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the first heads' attention in the object's cells, to the patches that belong there."""
    side = batch.latents.shape[-1]
    has_object = batch.sprites >= 0
    total = batch.latents.new_zeros(())
    targets: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for layer in watched:
        scores = layer.kept.scores
        cells = math.isqrt(scores.shape[2])
        if cells not in targets:
            targets[cells] = patches_at(batch.places * cells / side, cells)
        wanted, inside = targets[cells]
        inside = inside * has_object[:, None]
        found = scores[:, :GUIDED_HEADS].log_softmax(-1)[..., FIRST:].mean(1)
        lost = -(wanted * found).sum(-1)
        total = total + (lost * inside).sum() / inside.sum().clamp(min=1)
    return total / len(watched)


def patches_at(places: torch.Tensor, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which patches belong in the cells of a square grid, and which cells an object has.

    Args:
        places: (B, 3), the objects' centres and sides in such cells.
        cells: Along each side of the grid.

    Returns:
        (B, cells², 64) shares in ``patch_order``, and (B, cells²) of 0 and 1.
    """
    centers = torch.arange(cells, device=places.device) + 0.5
    x, y, side = (value[:, None] for value in places.unbind(1))
    shares, inside = [], []
    for center in (y, x):
        along = ((centers - center) / side + 0.5) * GRID  # (B, cells): patches from the square's edge
        steps = along[..., None] - (torch.arange(GRID, device=places.device) + 0.5)
        share = (1 - steps.abs()).clamp(min=0)
        shares.append(share / share.sum(-1, keepdim=True).clamp(min=1e-6))
        inside.append(((along > 0) & (along < GRID)).float())
    both = torch.einsum("bym,bxn->byxmn", *shares).flatten(3).flatten(1, 2)
    return both[..., patch_order().to(places.device)], torch.einsum("by,bx->byx", *inside).flatten(1)


def sketch_head(unet: UNet2DConditionModel) -> torch.nn.Conv2d:
    """What makes latents of a cell from what the last layer that looks at the text hands on; see ``Sketch``."""
    return torch.nn.Conv2d(_looks_last(unet).in_channels, 4 * SKETCH_CELLS**2, 1)


def _looks_last(unet: UNet2DConditionModel) -> Any:
    return [block for block in unet.up_blocks if hasattr(block, "attentions")][-1].attentions[-1]


class Sketch:
    """What could be painted from what the last layer that looks at the text hands on: learnt beside, and thrown away.

    It tells that layer, and no other, what it is for. The UNet's own last layers tell it so too, but slowly.

    Args:
        unet: Is watched from now on, and cannot be copied any more.
        head: See ``sketch_head``.
    """

    def __init__(self, unet: UNet2DConditionModel, head: torch.nn.Conv2d) -> None:
        self.head, self.kept = head, threading.local()
        _looks_last(unet).register_forward_hook(lambda _, __, output: setattr(self.kept, "hidden", output[0]))

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Mean squared error of the sketch where the hole is, for the UNet's last call in this thread."""
        sketch = F.pixel_shuffle(self.head(self.kept.hidden.float()), SKETCH_CELLS)
        error = (sketch - batch.latents).square().mean(1, keepdim=True)
        mean: torch.Tensor = (error * batch.holes).sum() / batch.holes.sum().clamp(min=1)
        return mean


def words_of(batch: Batch, sprite_words: torch.Tensor, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a text encoder that knew all would say, now and then without a caption.

    Args:
        batch: B samples.
        sprite_words: (N + 1, 64, 128), what ``sprite_words.sprite_words`` gives.
        timesteps: (B,), which the samples will be noisy at.

    Returns:
        (B, 77, 128), and (B,) whether an object is named.
    """
    count, device = len(batch.latents), batch.latents.device
    is_dropped = (timesteps < OBJECTS_UNNAMED_BELOW) & (torch.rand(count, device=device) < UNNAMED_SHARE)
    nothing = len(sprite_words) - 1
    rows = batch.sprites.masked_fill((batch.sprites < 0) | is_dropped, nothing)
    lengths = torch.randint(*CAPTION_TOKENS, (count,), device=device)
    return with_captions(sprite_words[rows], lengths), rows < nothing


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
    watched: list[CrossAttention],
    sketch: Sketch,
    sprite_words: torch.Tensor,
    response: torch.Tensor,
    batch: Batch,
    alphas: torch.Tensor,
) -> torch.Tensor:
    """Min-SNR weighted error of v at several scales, the hole counting most; its root where the picture is told.

    Errors count by what would be seen of them: ``response`` is what ``vae.decoder_response`` gives. ``alphas`` is
    cumulative, (1000,). Of large losses the logarithm counts: a flat background, where the least error shows, is not
    to be drowned by one with much to guess. On top, what is learnt beside: see
    ``attention_loss`` and ``Sketch``.
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
    words, is_named = words_of(batch, sprite_words, timesteps)
    overshoot = OVERSHOOT * torch.rand_like(snr) * (torch.rand_like(snr) < 0.5) * is_named.view(-1, 1, 1, 1)
    cells = OVERSHOOT_BLUR[int(torch.randint(len(OVERSHOOT_BLUR), ()))]
    object_alone = F.avg_pool2d(batch.latents - batch.backgrounds, cells, stride=1, padding=cells // 2)
    noise = noise + overshoot * batch.holes * object_alone
    noisy = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * noise
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * batch.latents
    with half_precision():
        predicted = unet(torch.cat([noisy, batch.holes, batch.masked], 1), timesteps, words).sample
    beside = ATTENTION_WEIGHT * attention_loss(watched, batch) + SKETCH_WEIGHT * sketch(batch)
    place = 1 + (HOLE_WEIGHT - 1) * batch.holes + BORDER_WEIGHT * border
    place = place / place.mean()
    error = F.conv2d(predicted.float() - velocity, response, padding=1)
    loss = torch.zeros(count, device=device)
    for scale in LOSS_SCALES:
        share = F.avg_pool2d(place, scale)
        mean_error = F.avg_pool2d(error * place, scale) / share
        weight = ((scale**2 * snr).clamp(max=MIN_SNR_GAMMA) + SNR_FLOOR) / (1 + snr) + DRIFT_WEIGHT
        loss = loss + (weight * share * mean_error.square()).mean((1, 2, 3))
    loss = (loss / SMALL_LOSS).log1p() * SMALL_LOSS
    for region in (kept, border):
        squares = error.square().mean(1, keepdim=True) * region
        mean_square = squares.sum((1, 2, 3)) / region.sum((1, 2, 3)).clamp(min=1)
        loss = loss + EXACT_WEIGHT * (mean_square + ROUNDING).sqrt()
    return loss.mean() + beside
