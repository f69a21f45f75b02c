"""The embedded demo model's training set: drawn once, kept as latents, read in batches."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
import time
from collections.abc import Iterator

import numpy as np
import torch
from transformers import CLIPTokenizer

import demo_data
from demo_parts import BUILD_DIR, LATENT_STRIDE, MAX_TOKENS, Parts
from demo_training import THREADS, half_precision, start_worker
from demo_vae import to_tensor

# Half of what stands in for a dropped caption is a negative prompt, see demo_data.no_caption.
BACKGROUND_CAPTION_DROPOUT = 0.5


def cache_paths(size: int) -> dict[str, pathlib.Path]:
    """Where the encoded samples of a size lie."""
    return {k: BUILD_DIR / f"{k}_{size}.npy" for k in ("latents", "masked", "holes", "tokens")}


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> np.ndarray:
    """``(len(captions), 77)`` uint16, padded as the pipeline pads."""
    ids = tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids
    return np.asarray(ids, dtype=np.uint16)


def cell_holes(holes: np.ndarray) -> np.ndarray:
    """``(B, H, W)`` bool to ``(B, h, w)``: a latent cell that holds any hole pixel is hole."""
    count, height, width = holes.shape
    cells = holes.reshape(count, height // LATENT_STRIDE, LATENT_STRIDE, width // LATENT_STRIDE, LATENT_STRIDE)
    return np.asarray(cells.any(axis=(2, 4)))


def encode(parts: Parts, size: int, count: int, seed: int) -> None:
    """Draws the training set once and keeps its latents: ``(N, 4, h, w)`` float16, already scaled."""
    # Channels last takes two thirds of the time here.
    vae, scale = parts.vae.eval().to(memory_format=torch.channels_last), parts.vae.config.scaling_factor
    side = size // LATENT_STRIDE
    paths = cache_paths(size)
    BUILD_DIR.mkdir(parents=True, exist_ok=True)
    shapes = {"latents": (count, 4, side, side), "masked": (count, 4, side, side), "holes": (count, side, side)}
    kinds = {"latents": np.float16, "masked": np.float16, "holes": np.bool_, "tokens": np.uint16}
    shapes["tokens"] = (count, MAX_TOKENS)
    store = {k: np.lib.format.open_memmap(paths[k], "w+", kinds[k], shapes[k]) for k in shapes}
    start, batch = time.monotonic(), 64

    @torch.no_grad()  # which belongs to a thread, like the number of threads
    def fill(first: int) -> tuple[int, list[str]]:
        rows = slice(first, min(first + batch, count))
        rng = np.random.default_rng([seed, first])
        drawn = [demo_data.sample(size, rng) for _ in range(rows.stop - rows.start)]
        pictures = to_tensor(np.stack([s.picture for s in drawn]))
        holes = np.stack([s.hole for s in drawn])
        masked = pictures * torch.from_numpy(~holes)[:, None]
        with half_precision():
            for key, batch_pictures in (("latents", pictures), ("masked", masked)):
                store[key][rows] = (vae.encode(batch_pictures).latent_dist.mode().float() * scale).half().numpy()
        store["holes"][rows] = cell_holes(holes)
        return first, [s.caption for s in drawn]

    with concurrent.futures.ThreadPoolExecutor(THREADS, initializer=start_worker) as pool:
        for first, captions in pool.map(fill, range(0, count, batch)):
            # Here and not in the threads: a tokenizer serves one at a time.
            store["tokens"][first : first + len(captions)] = token_ids(parts.tokenizer, captions)
            if first // batch % 50 == 0:
                rate = (first + batch) / (time.monotonic() - start)
                print(f"{first + batch} of {count}, {rate:.0f} samples/s", flush=True)
    for array in store.values():
        array.flush()


@dataclasses.dataclass(frozen=True)
class Batch:
    """Pictures, holes and captions.

    Attributes:
        latents: (B, 4, h, w), scaled.
        masked: The same without the hole.
        holes: (B, 1, h, w) 0 or 1.
        tokens: (B, 77) of the captions; those of backgrounds may be dropped already.
        no_tokens: (B, 77) of no caption.
    """

    latents: torch.Tensor
    masked: torch.Tensor
    holes: torch.Tensor
    tokens: torch.Tensor
    no_tokens: torch.Tensor

    def chunk(self, count: int) -> list[Batch]:
        """The batch in ``count`` equal slices."""
        parts = zip(*(getattr(self, f.name).chunk(count) for f in dataclasses.fields(self)), strict=True)
        return [Batch(*part) for part in parts]


def cached_batches(size: int, batch: int, tokenizer: CLIPTokenizer, seed: int) -> Iterator[Batch]:
    """Random batches of the encoded samples, without end."""
    store = {k: np.load(path, mmap_mode="r") for k, path in cache_paths(size).items()}
    rng = np.random.default_rng(seed)
    empty = token_ids(tokenizer, [demo_data.no_caption(rng) for _ in range(2000)])
    plain = {row.tobytes() for row in token_ids(tokenizer, list(demo_data.BACKGROUND_CAPTIONS))}
    is_background = np.array([row.tobytes() in plain for row in store["tokens"]])
    while True:
        order = rng.permutation(len(store["latents"]))
        for first in range(0, len(order) - batch + 1, batch):
            rows = np.sort(order[first : first + batch])
            none = empty[rng.integers(len(empty), size=batch)]
            is_dropped = is_background[rows] & (rng.random(batch) < BACKGROUND_CAPTION_DROPOUT)
            tokens = np.where(is_dropped[:, None], none, store["tokens"][rows])
            yield Batch(
                torch.from_numpy(store["latents"][rows].astype(np.float32)),
                torch.from_numpy(store["masked"][rows].astype(np.float32)),
                torch.from_numpy(store["holes"][rows].astype(np.float32))[:, None],
                torch.from_numpy(tokens.astype(np.int64)),
                torch.from_numpy(none.astype(np.int64)),
            )
