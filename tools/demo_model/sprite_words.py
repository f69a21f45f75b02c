"""What the text encoder says about an object: the object itself, cut into patches, one a token.

A small UNet that has to remember what a hundred and eighty objects look like remembers none of them well. So the text
encoder remembers them. Its 77 tokens hold, after the caption's own, a picture of the object as an 8x8 grid of patches,
each with its latents in three sizes, its outline and its place. The UNet learns to find the patch that belongs where it
looks. That is the same for all objects, and it learns it from two thousand of them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AsymmetricAutoencoderKL
from PIL import Image

from tools.demo_model import data
from tools.demo_model.parts import BUILD_DIR, LATENT_STRIDE, MAX_TOKENS, TEXT_WIDTH
from tools.demo_model.training import DEVICE
from tools.demo_model.vae import to_tensor

GRID = 8  # patches along each side of an object's square
FIRST = MAX_TOKENS - GRID**2  # token of the first patch: a caption has so many before it takes some of theirs
PATCH_CELLS = data.SPRITE_SIDE // LATENT_STRIDE // GRID  # latent cells along each side of a patch
SIZES = (1, 2, 4)  # a patch is held whole, in half the size and in a quarter: latents cannot be shrunk, pictures can
LATENT_SCALE = 0.8  # of a patch's latents beside its outline, which is -1 to 1
PLACE_SCALE = 1.5  # of its place: what attention goes by
FLAGS = 8  # values that tell the three kinds of tokens apart: patches, those of nothing, the caption's own


@functools.cache
def patch_order() -> torch.Tensor:
    """(64,): which patch each token from ``FIRST`` on holds, numbered row by row.

    The corners come first: a long caption takes the first tokens, and corners are hardly ever more than air.
    """
    rows, columns = np.divmod(np.arange(GRID**2), GRID)
    middle = (GRID - 1) / 2
    reach = np.maximum(abs(rows - middle), abs(columns - middle)) + 0.1 * np.hypot(rows - middle, columns - middle)
    return torch.from_numpy(np.argsort(-reach, kind="stable"))


def place_codes() -> torch.Tensor:
    """(64, 32): each patch's row and column, in waves and one by one."""
    centers = (torch.arange(GRID) + 0.5) / GRID
    waves = [f(torch.pi * octave * centers) for octave in (0.5, 1, 2, 4) for f in (torch.sin, torch.cos)]
    code = torch.cat([torch.stack(waves, 1), torch.eye(GRID) * 2], 1)  # (8, 16)
    rows, columns = code[:, None].expand(GRID, GRID, -1), code[None].expand(GRID, GRID, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)


def _finished(contents: list[torch.Tensor], kind: int) -> torch.Tensor:
    """Patches in three sizes and their outlines, (..., 64, 64 / 16 / 4 / 4), as tokens; as a layer norm gives them."""
    whole, half, quarter, outline = contents
    place = (PLACE_SCALE * place_codes()).expand(*whole.shape[:-1], -1)
    flags = whole.new_zeros(*whole.shape[:-1], FLAGS)
    flags[..., kind * 4 : kind * 4 + 4] = 1
    return F.layer_norm(torch.cat([whole, half, place, quarter, outline, flags], -1), (TEXT_WIDTH,))


def void_word() -> torch.Tensor:
    """(128,): a token of the caption's own, which holds no patch."""
    word = torch.zeros(TEXT_WIDTH)
    word[-FLAGS:] = 1
    return F.layer_norm(word, (TEXT_WIDTH,))


@torch.no_grad()
def sprite_words(vae: AsymmetricAutoencoderKL) -> torch.Tensor:
    """(N + 1, 64, 128): the tokens of every sprite in ``patch_order``, then of nothing.

    Nothing is what no caption says, and a background's caption says the same: so guidance, which multiplies the
    difference of the two, adds nothing to a background. It has the patches of an empty square, and is marked: with
    little noise left it may go with anything.
    """
    count = len(data.sprites())
    sprites = [data.sprite(index) for index in range(count)]
    sprites.append(Image.new("RGBa", (data.SPRITE_SIDE, data.SPRITE_SIDE)))
    contents = [_patches(sprites, data.SPRITE_SIDE // size, vae) for size in SIZES]
    alphas = np.stack([np.asarray(sprite.getchannel("a"), dtype=np.float32) / 127.5 - 1 for sprite in sprites])
    side = data.SPRITE_SIDE // GRID // 2
    contents.append(
        F.pixel_unshuffle(F.avg_pool2d(torch.from_numpy(alphas)[:, None], side), 2).flatten(2).transpose(1, 2)
    )
    named, nothing = ([content[part] for content in contents] for part in (slice(-1), slice(-1, None)))
    return torch.cat([_finished(named, 0), _finished(nothing, 1)])[:, patch_order()]


def _patches(sprites: Sequence[Image.Image], side: int, vae: AsymmetricAutoencoderKL) -> torch.Tensor:
    """(N, 64, values): the latents of sprites on grey in a size, in pixels, patch by patch."""
    cells = side // LATENT_STRIDE // GRID
    encoded = []
    for first in range(0, len(sprites), 64):
        pictures = []
        for sprite in sprites[first : first + 64]:
            rgba = np.asarray(sprite.resize((side, side), Image.Resampling.LANCZOS, reducing_gap=3), dtype=np.float32)
            pictures.append(128 * (1 - rgba[..., 3:] / 255) + rgba[..., :3])
        latents = vae.to(DEVICE).encode(to_tensor(np.stack(pictures)).to(DEVICE)).latent_dist.mean
        encoded.append((LATENT_SCALE * vae.config.scaling_factor * latents).cpu())
    return F.pixel_unshuffle(torch.cat(encoded), cells).flatten(2).transpose(1, 2)


def cached_sprite_words(vae: AsymmetricAutoencoderKL) -> torch.Tensor:
    """What ``sprite_words`` gives, computed once for an encoder."""
    digest = hashlib.sha256(repr(SIZES).encode())
    for parameter in (*vae.encoder.parameters(), *vae.quant_conv.parameters()):
        digest.update(parameter.detach().half().cpu().contiguous().numpy().tobytes())
    path = BUILD_DIR / f"sprite_words_{digest.hexdigest()[:12]}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(sprite_words(vae), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    loaded: torch.Tensor = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def with_captions(words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The 77 tokens: (B, 64, 128) patches after captions of so many tokens, (B,); the captions' own are void."""
    count = len(words)
    void = void_word().to(words)
    whole = torch.cat([void.expand(count, FIRST, -1), words], 1)
    taken = torch.arange(MAX_TOKENS, device=words.device)[None, :, None] < lengths[:, None, None]
    return torch.where(taken, void, whole)
