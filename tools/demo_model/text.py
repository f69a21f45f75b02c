"""What the demo model's text encoder says, and how it comes to: its first layer learns to read, the others are written.

A layer that remembers has a unit for each patch of each object. The unit answers where the first layer has read that
object's name and the token is that patch's, and adds the patch. So a hundred and eighty objects are remembered exactly,
without training; and since all of that is in the weights, diffusers' and transformers' own classes compute it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tools.demo_model.captions import background_caption, no_caption, object_caption
from tools.demo_model.objects import OBJECTS
from tools.demo_model.parts import MAX_TOKENS, TEXT_WIDTH
from tools.demo_model.sprite_words import FIRST, GRID, void_word
from tools.demo_model.training import half_precision

BACKGROUND, NOTHING = len(OBJECTS), len(OBJECTS) + 1  # what captions name besides objects: a background, and nothing
VOID = len(OBJECTS) + 2  # what the caption's own tokens are read as, and all before the first patch
OTHERS_SHARE = 0.08  # of the captions that are learnt: those of backgrounds, and of nothing
NAME_WIDTH = TEXT_WIDTH // 2  # values that say what is named; the others say which token it is
# A unit is sure at 2 (name and place agree), at most at 1.3 where one of them does.
THRESHOLD, GAIN = 1.6, 20.0
WRITTEN = 30.0  # how large a patch is beside what was read, which it replaces


@functools.cache
def name_codes() -> torch.Tensor:
    """(N + 3, 64): a code for each object, background, nothing and void; of unit length, zero mean, far apart."""
    generator = torch.Generator().manual_seed(5)
    codes = torch.randn(VOID + 1, NAME_WIDTH, generator=generator)
    for step in range(300):
        codes = F.normalize(codes - codes.mean(1, keepdim=True), dim=1)
        near = (codes @ codes.T).fill_diagonal_(-1)
        codes = codes - 0.5 * (0.99**step) * (torch.softmax(near * 40, 1) @ codes)
    return F.normalize(codes - codes.mean(1, keepdim=True), dim=1)


@functools.cache
def place_codes() -> torch.Tensor:
    """(77, 64): a code for each token, orthogonal or opposite to all others; of unit length and zero mean."""
    waves = torch.ones(1, 1)
    while len(waves) < NAME_WIDTH:  # Hadamard's matrix, by Sylvester's construction
        waves = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), waves)
    waves = waves[1:] / NAME_WIDTH**0.5
    return torch.cat([waves, -waves])[:MAX_TOKENS].flip(0)


def codes_of(names: torch.Tensor) -> torch.Tensor:
    """(..., 77, 128): what the first layer is to read, of names (..., 77); in the shape that a layer norm gives."""
    place = place_codes().to(names.device).expand(*names.shape, -1)
    both = torch.cat([name_codes().to(names.device)[names], place], -1)
    return F.layer_norm(both, (TEXT_WIDTH,))


def reader(text_encoder: CLIPTextModel) -> CLIPTextModel:
    """The first layer alone, sharing its weights with ``text_encoder``; what it gives is not normalised."""
    config = CLIPTextConfig(**{**text_encoder.config.to_dict(), "num_hidden_layers": 1})
    first: Any = CLIPTextModel(config)
    first.embeddings = text_encoder.embeddings
    first.encoder.layers[0] = text_encoder.encoder.layers[0]
    first.final_layer_norm = torch.nn.Identity()
    return first


def token_ids(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> np.ndarray:
    """``(len(captions), 77)`` int64, padded as the pipeline pads."""
    ids = tokenizer(list(captions), padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids
    return np.asarray(ids, dtype=np.int64)


def drawn_captions(tokenizer: CLIPTokenizer, count: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Captions as tokens (count, 77), and what each names: an object's index, ``BACKGROUND`` or ``NOTHING``."""
    labels = rng.integers(len(OBJECTS), size=count)
    others = np.where(rng.random(count) < 0.5, BACKGROUND, NOTHING)
    labels = np.where(rng.random(count) < OTHERS_SHARE, others, labels)
    captions = [caption_of(int(label), rng) for label in labels]
    return torch.from_numpy(token_ids(tokenizer, captions)), torch.from_numpy(labels)


def caption_of(label: int, rng: np.random.Generator) -> str:
    """A caption that names what ``label`` stands for."""
    if label < len(OBJECTS):
        return object_caption(OBJECTS[label], rng)
    return background_caption(rng) if label == BACKGROUND else no_caption(rng)


def wanted_names(tokens: torch.Tensor, labels: torch.Tensor, end: int) -> torch.Tensor:
    """(B, 77): what each token is to be read as, given what the captions name, (B,), and the mark at their end."""
    lengths = (tokens == end).int().argmax(1) + 1
    own = torch.arange(MAX_TOKENS, device=tokens.device)[None] < lengths.clamp(min=FIRST)[:, None]
    return torch.where(own, VOID, labels[:, None])


def reading_loss(first: CLIPTextModel, end: int, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean squared error of what the first layer reads, and cross-entropy of the name that is nearest to it."""
    names = wanted_names(tokens, labels, end)
    with half_precision():
        read = first(tokens).last_hidden_state
    read = read.float()
    likeness = F.normalize(read[..., :NAME_WIDTH], dim=-1) @ name_codes().to(read.device).T
    is_patch = names != VOID
    return F.mse_loss(read, codes_of(names)) + F.cross_entropy(10 * likeness[is_patch], names[is_patch])


@torch.no_grad()
def write_memory(text_encoder: CLIPTextModel, sprite_words: torch.Tensor) -> None:
    """Writes what every object looks like into all layers but the first; ``sprite_words`` as the function of that name.

    Each layer has the units of some tokens, for every object, a background and nothing; the last one more, for void.

    Raises:
        ValueError: If the layers have too few units.
    """
    rows = torch.cat([torch.arange(len(OBJECTS)), torch.full((2,), len(sprite_words) - 1)])
    patches = sprite_words.cpu()[rows]  # (N + 2, 64, 128)
    layers = list(text_encoder.encoder.layers)[1:]
    for layer, tokens in zip(layers, torch.arange(GRID**2).chunk(len(layers)), strict=True):
        names = torch.arange(len(rows)).repeat(len(tokens))
        places = tokens.repeat_interleave(len(rows)) + FIRST
        _write(layer, names, places, patches[:, tokens].transpose(0, 1).flatten(0, 1), is_last=layer is layers[-1])
    norm = text_encoder.final_layer_norm
    norm.weight.fill_(1)
    norm.bias.zero_()


def _write(layer: Any, names: torch.Tensor, places: torch.Tensor, patches: torch.Tensor, *, is_last: bool) -> None:
    """Gives a layer a unit for each of some names and places, (U,), that replaces what was read with its patch."""
    first, second = layer.mlp.fc1, layer.mlp.fc2
    units = len(names) + is_last
    if units > first.out_features:
        raise ValueError(f"{units} units are needed, and a layer has {first.out_features}")
    for module in (layer.self_attn.out_proj, first, second):
        module.weight.zero_()
        module.bias.zero_()
    layer.layer_norm2.weight.fill_(1)
    layer.layer_norm2.bias.zero_()
    read = codes_of(names[:, None].expand(-1, MAX_TOKENS))[torch.arange(len(names)), places]
    scale = read.square().sum(1).mean() / 2  # of what name and place have in common with themselves
    sure = GAIN * (2 - THRESHOLD)
    first.weight[: len(names)] = GAIN * read / scale
    first.bias[: len(names)] = -GAIN * THRESHOLD
    second.weight[:, : len(names)] = ((WRITTEN * patches - read) / sure).T
    if is_last:
        void = codes_of(torch.full((1, MAX_TOKENS), VOID))[0, 0, :NAME_WIDTH]
        first.weight[len(names), :NAME_WIDTH] = GAIN * void / scale
        first.bias[len(names)] = -GAIN * (THRESHOLD - 1)
        second.weight[:, len(names)] = WRITTEN * void_word() / sure


@torch.no_grad()
def remembered_share(
    text_encoder: CLIPTextModel, sprite_words: torch.Tensor, tokens: torch.Tensor, labels: torch.Tensor, end: int
) -> float:
    """How much of the variance of what is to be said of captions (B, 77) is said: 1 is all."""
    names = wanted_names(tokens, labels, end)
    rows = torch.where(labels < BACKGROUND, labels, len(sprite_words) - 1)
    whole = torch.cat([void_word().expand(len(tokens), FIRST, -1), sprite_words.cpu()[rows.cpu()]], 1).to(tokens.device)
    wanted = torch.where((names == VOID)[..., None], void_word().to(tokens.device), whole)
    said = text_encoder(tokens).last_hidden_state
    return 1 - float((said - wanted).square().mean() / wanted.var())
