"""The demo model's autoencoder: its shape, the linear code it starts from, its loss and its error."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AsymmetricAutoencoderKL

from tools.demo_model import data
from tools.demo_model.parts import LATENT_STRIDE
from tools.demo_model.sources import HELD_OUT_PHOTOS, SKIMAGE_HELD_OUT_PHOTOS, Photo
from tools.demo_model.training import DEVICE, half_precision

LOG_VARIANCE = -14.0  # of the posterior: std 0.001 of a unit latent, so that sampling it changes nothing
RESPONSE_CHANGE = 0.1  # std of the changes of latents whose effect on pixels is measured
# Of the mean energy, on top for every direction: a change that is no longer small shows more than in proportion.
FAINT_SHARE = 0.2
BORDER_WEIGHT = 4.0  # on top, for pixels of masked pictures in cells that are hole in part and beside them
MASKED_SHARE = 4  # one in so many masked pictures is decoded with its grey
LATENT_NOISE = 0.03  # std added while the autoencoder learns, so that near latents mean near pictures
SIGNAL_SCALE = 3.0  # k of the linear start; large beside colours in [-1, 1], so that it rules its group's norm


def to_tensor(pictures: np.ndarray | torch.Tensor) -> torch.Tensor:
    """``(B, H, W, 3)`` uint8 to ``(B, 3, H, W)`` float32 in [-1, 1]."""
    return torch.as_tensor(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def build_vae() -> AsymmetricAutoencoderKL:
    """The autoencoder: stride 4, four channels, and a decoder that is shown what is kept."""
    vae = AsymmetricAutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        down_block_out_channels=(32, 64, 80),
        layers_per_down_block=1,
        up_block_types=("UpDecoderBlock2D",) * 3,
        up_block_out_channels=(32, 64, 64),
        layers_per_up_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=96,
        scaling_factor=1.0,
    )
    start_linear(vae)
    return vae


# --- the linear start ------------------------------------------------------------------------------------------------


@torch.no_grad()
def start_linear(vae: AsymmetricAutoencoderKL) -> None:
    """Sets the autoencoder up as a linear code: four principal components of 4x4 patches, mean colour back.

    From random weights the first twenty minutes go into finding absolute colour behind the group norms. Here every
    residual branch starts at zero, and a signal s passes a final norm and SiLU as a group (k, -k, s, -s): the constant
    k fixes the group's scale, and silu(s) - silu(-s) = s. The error on held-out pictures is 8/255 before any training.
    """
    for name, layer in vae.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    components = _principal_components()
    _start_encoder(vae.encoder, torch.linalg.pinv(components).T)
    _start_decoder(vae.decoder, components)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        _cleared(conv, len(conv.weight))[range(4), range(4), 0, 0] = 1
    vae.quant_conv.bias[4:] = LOG_VARIANCE


def _principal_components() -> torch.Tensor:
    """``(4, 48)``: what a unit of each latent adds to a patch, its pixels in the encoder's order, colours last."""
    rng = np.random.default_rng(3)
    patches = to_tensor(np.stack([data.sample(64, rng).picture for _ in range(256)]))
    for _ in range(2):
        patches = torch.cat([patches[:, :, dy::2, dx::2] for dy in (0, 1) for dx in (0, 1)], 1)
    rows = patches.permute(0, 2, 3, 1).reshape(-1, 48).double()
    values, vectors = torch.linalg.eigh(torch.cov(rows.T))
    components: torch.Tensor = (vectors[:, -4:] * values[-4:].sqrt()).T.float()
    return components


def _start_encoder(encoder: Any, analysis: torch.Tensor) -> None:
    """Colours, then 2x2 pixels side by side, then 4x4, then the latents by ``analysis`` (4, 48)."""
    _cleared(encoder.conv_in, 3)[range(3), range(3), 1, 1] = 1
    for block, channels in ((encoder.down_blocks[0], 3), (encoder.down_blocks[1], 12)):
        weight = _cleared(block.downsamplers[0].conv, 4 * channels)
        for i, (dy, dx) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            weight[range(i * channels, (i + 1) * channels), range(channels), dy, dx] = 1
    _cleared(encoder.down_blocks[1].resnets[0].conv_shortcut, 12)[range(12), range(12), 0, 0] = 1
    _signals_to_groups(encoder.down_blocks[2].resnets[0].conv_shortcut, analysis, encoder.conv_norm_out)
    _groups_to_outputs(encoder.conv_out, 4, encoder.conv_norm_out)


def _start_decoder(decoder: Any, components: torch.Tensor) -> None:
    """The patch's mean colour, enlarged twice by a tent filter; the rest is for training to find."""
    _cleared(decoder.conv_in, 3)[:3, :, 1, 1] = components.reshape(4, 16, 3).mean(1).T
    tent = torch.tensor([0.25, 0.5, 0.25])
    first, second, last = decoder.up_blocks
    for block in (first, second):
        _cleared(block.upsamplers[0].conv, 3)[range(3), range(3)] = torch.outer(tent, tent)
    _signals_to_groups(last.resnets[0].conv_shortcut, torch.eye(3), decoder.conv_norm_out)
    _groups_to_outputs(decoder.conv_out, 3, decoder.conv_norm_out)


def _cleared(conv: torch.nn.Conv2d, rows: int) -> torch.Tensor:
    """The convolution's weight, its first output channels set to zero."""
    torch.nn.init.zeros_(conv.weight[:rows])
    if conv.bias is not None:
        torch.nn.init.zeros_(conv.bias[:rows])
    return conv.weight


def _signals_to_groups(conv: torch.nn.Conv2d, signals: torch.Tensor, norm: torch.nn.GroupNorm) -> None:
    """Makes a 1x1 convolution put each row of ``signals`` (S, in) into a group of ``norm`` of its own."""
    width = norm.num_channels // norm.num_groups
    weight = _cleared(conv, len(signals) * width)
    for i, row in enumerate(signals):
        first = i * width
        torch.nn.init.constant_(conv.bias[first : first + 1], SIGNAL_SCALE)  # type: ignore[index]  # it has a bias
        torch.nn.init.constant_(conv.bias[first + 1 : first + 2], -SIGNAL_SCALE)  # type: ignore[index]  # it has a bias
        weight[first + 2, : len(row), 0, 0] = row
        weight[first + 3, : len(row), 0, 0] = -row


def _groups_to_outputs(conv: torch.nn.Conv2d, count: int, norm: torch.nn.GroupNorm) -> None:
    """Makes a 3x3 convolution after ``norm`` and SiLU give back what ``_signals_to_groups`` put in."""
    width = norm.num_channels // norm.num_groups
    conv.weight *= 0.02  # the other channels begin as a faint noise
    _cleared(conv, 0)[:count, : count * width] = 0
    scale = SIGNAL_SCALE * math.sqrt(2 / width)  # what the norm divides by
    for i in range(count):
        conv.weight[i, i * width + 2, 1, 1], conv.weight[i, i * width + 3, 1, 1] = scale, -scale
        torch.nn.init.zeros_(conv.bias[i : i + 1])  # type: ignore[index]  # it has a bias


# --- training --------------------------------------------------------------------------------------------------------


def vae_loss(vae: AsymmetricAutoencoderKL, pictures: torch.Tensor, holes: torch.Tensor) -> torch.Tensor:
    """Mean error of pictures, and of what an inpainting pipeline makes of them: their hole at mid-grey.

    A latent cell that is grey in part would spend its four numbers on the edge between picture and grey, and what is
    left of the picture in it would be lost: no UNet could then continue it without a step. So such a cell is to have
    the latents of the whole picture, as well as its kept pixels and those around tell them. The encoder has to see to
    that, for it alone sees the hole's pixels; the UNet is told of cells.

    Args:
        vae: Learns.
        pictures: (B, 3, H, W), see ``to_tensor``.
        holes: (B, 1, H, W) of 0 and 1.
    """
    kept_cells = F.max_pool2d(1 - holes, LATENT_STRIDE)
    border_cells = kept_cells * F.max_pool2d(holes, LATENT_STRIDE)
    shown = F.interpolate(kept_cells, scale_factor=LATENT_STRIDE)
    border = F.interpolate(F.max_pool2d(border_cells, 3, stride=1, padding=1), scale_factor=LATENT_STRIDE)
    count, some = len(pictures), math.ceil(len(pictures) / MASKED_SHARE)
    with half_precision():
        whole, masked = vae.encode(torch.cat([pictures, pictures * (1 - holes)])).latent_dist.mean.float().chunk(2)
        # What is not kept is the UNet's to paint; here it is what a perfect one would have painted.
        completed = torch.where(kept_cells > 0, masked, whole.detach())
        noisy = whole + LATENT_NOISE * torch.randn_like(whole)
        painted = vae.decode(torch.cat([noisy, completed, masked[:some]])).sample.float()
        # That what is kept may be shown to the decoder; what to do with it, ``decoder`` teaches.
        fitted = vae.decode(noisy[:some], image=pictures[:some], mask=holes[:some]).sample.float()
    loss: torch.Tensor = visible_error(painted[:count] - pictures)
    loss = loss + 0.5 * visible_error(fitted - pictures[:some])
    loss = loss + visible_error((painted[count : 2 * count] - pictures) * (1 + BORDER_WEIGHT * border))
    loss = loss + 0.5 * (painted[2 * count :] - pictures[:some] * shown[:some]).abs().mean()
    # Half the KL divergence to a unit normal that depends on the mean; it only fixes the scale.
    loss += 3e-4 * whole.square().mean()
    return loss


def trained_parameters(vae: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Those that learn. Diffusers' class has two more kinds than ours has a use for, which stay as they began.

    Attention, whose output is zero: pictures of all sizes are encoded and decoded, and it would learn one. And the last
    layer of what shows the decoder the picture, for a level that a stride of four does not have.
    """
    return [p for name, p in vae.named_parameters() if "attentions." not in name and "encoder.layers.4." not in name]


def visible_error(difference: torch.Tensor) -> torch.Tensor:
    """Mean absolute error; edges and the coarse picture count on top, for plain L1 leaves them soft and tinted."""
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    coarse = F.avg_pool2d(difference, 4).abs().mean()
    return difference.abs().mean() + 0.5 * edges + 0.5 * coarse


@torch.no_grad()
def border_error(vae: AsymmetricAutoencoderKL, pictures: torch.Tensor, holes: torch.Tensor) -> float:
    """Mean absolute error in grey levels (0..255) in cells that are hole in part, of masked pictures painted perfectly.

    Args:
        vae: Encodes what is kept; the latents of the hole are those of the whole picture.
        pictures: (B, 3, H, W), see ``to_tensor``.
        holes: (B, 1, H, W) of 0 and 1.
    """
    kept_cells = F.max_pool2d(1 - holes, LATENT_STRIDE)
    border = F.interpolate(kept_cells * F.max_pool2d(holes, LATENT_STRIDE), scale_factor=LATENT_STRIDE)
    total = 0.0
    for picture, hole, kept, place in zip(pictures, holes, kept_cells, border, strict=True):
        whole, masked = vae.encode(torch.stack([picture, picture * (1 - hole)])).latent_dist.mean
        painted = vae.decode(torch.where(kept > 0, masked, whole)[None]).sample[0].clamp(-1, 1)
        total += float(((painted - picture).abs() * place).sum())
    return 127.5 * total / (3 * float(border.sum()))


@torch.no_grad()
def vae_error(vae: AsymmetricAutoencoderKL, size: int = 128, count: int = 96) -> float:
    """Mean absolute reconstruction error in grey levels (0..255) on held-out pictures, a third of them with holes."""
    rng = np.random.default_rng(10**6)
    photos: tuple[Photo | str, ...] = (*HELD_OUT_PHOTOS, *SKIMAGE_HELD_OUT_PHOTOS)
    pictures = to_tensor(np.stack([data.vae_picture(size, rng, photos) for _ in range(count)])).to(DEVICE)
    errors = [
        (vae.decode(vae.encode(batch).latent_dist.mode()).sample.clamp(-1, 1) - batch).abs().mean()
        for batch in pictures.chunk(count // 16)
    ]
    return 127.5 * float(torch.stack(errors).mean())


@torch.no_grad()
def decoder_response(vae: AsymmetricAutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """What a small change of latents does to a cell's 4x4 pixels, as a convolution's weight.

    White latents are equally large, but not equally visible. An error put through this convolution counts by what would
    be seen of it: 48 rows are what the pixels change by wherever the change is, four are the rest, a direction of the
    latents each: what it changes differs from place to place, and its mean over places says too little of it.

    Args:
        vae: Its decoder is what is measured.
        latents: (B, 4, h, w), scaled; the pictures around which the changes are small.

    Returns:
        (52, 4, 3, 3): a least squares fit over 3x3 cells, then the rest; white noise keeps its mean square.
    """

    def change_of_pixels(batch: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        before, after = (vae.decode(x / vae.config.scaling_factor).sample for x in (batch, batch + change))
        return F.pixel_unshuffle(after - before, LATENT_STRIDE).permute(0, 2, 3, 1).reshape(-1, 48)

    pixels, patches = [], []
    for batch in latents.chunk(math.ceil(len(latents) / 16)):
        coarse = F.interpolate(batch.new_empty(*batch.shape[:2], 4, 4).normal_(), size=batch.shape[2:], mode="bilinear")
        change = RESPONSE_CHANGE * (torch.randn_like(batch) + coarse)
        pixels.append(change_of_pixels(batch, change))
        patches.append(F.unfold(change, 3, padding=1).transpose(1, 2).reshape(-1, 36))
    everywhere: torch.Tensor = torch.linalg.lstsq(torch.cat(patches), torch.cat(pixels)).solution.T.reshape(48, 4, 3, 3)
    found, directions = torch.linalg.eigh(torch.einsum("oiyx,ojyx->ij", everywhere, everywhere))
    some = latents[:32]
    noise = RESPONSE_CHANGE * torch.randn_like(some[:, :1])
    changes = [change_of_pixels(some, noise * direction.view(1, 4, 1, 1)) for direction in directions.T]
    energy = torch.stack([change.square().sum(1).mean() for change in changes]) / RESPONSE_CHANGE**2
    rest = (energy - found).clamp(min=0) + FAINT_SHARE * energy.mean()
    weight = torch.cat([everywhere, F.pad((directions * rest.sqrt()).T[:, :, None, None], (1, 1, 1, 1))])
    return weight / weight.square().sum((1, 2, 3)).mean().sqrt()


@torch.no_grad()
def whitened(vae: AsymmetricAutoencoderKL) -> AsymmetricAutoencoderKL:
    """The same autoencoder with latents of zero mean and unit covariance, the map folded into its 1x1 convolutions.

    A UNet learns sooner when its four channels carry equally much.
    """
    vae = copy.deepcopy(vae)
    rng = np.random.default_rng(7)
    pictures = to_tensor(np.stack([data.sample(96, rng).picture for _ in range(512)])).to(DEVICE)
    latents = torch.cat([vae.encode(batch).latent_dist.mean for batch in pictures.chunk(16)])
    rows = latents.permute(0, 2, 3, 1).reshape(-1, 4).double()
    mean, covariance = rows.mean(0), torch.cov(rows.T)
    values, vectors = torch.linalg.eigh(covariance)
    forward = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    backward = torch.linalg.inv(forward)
    before, after = vae.quant_conv, vae.post_quant_conv
    # Bias and weight of post_quant_conv first, for they need the old mean.
    after.bias += (after.weight[:, :, 0, 0].double() @ mean).float()
    after.weight.copy_((after.weight[:, :, 0, 0].double() @ backward).float()[:, :, None, None])
    before.bias[:4] = (forward @ (before.bias[:4].double() - mean)).float()
    before.weight[:4] = (forward @ before.weight[:4, :, 0, 0].double()).float()[:, :, None, None]
    before.weight[4:] = 0
    before.bias[4:] = LOG_VARIANCE
    return vae
