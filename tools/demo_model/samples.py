"""The demo model's training set: drawn once, kept as latents, read in batches."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AsymmetricAutoencoderKL

from tools.demo_model import data
from tools.demo_model.parts import BUILD_DIR, LATENT_STRIDE
from tools.demo_model.training import (
    CONVOLUTION_LAYOUT,
    DEVICE,
    DRAWERS,
    SLICES,
    THREADS,
    half_precision,
    start_worker,
)
from tools.demo_model.vae import to_tensor

ENCODED_AT_ONCE = 128  # pictures


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Newly drawn samples.

    Attributes:
        pictures: (B, H, W, 3) uint8.
        backgrounds: (B, H, W, 3) uint8, without the object.
        holes: (B, H, W) bool.
        sprites: (B,) int16, -1 of a background.
        places: (B, 3) float32, in pixels.
    """

    pictures: torch.Tensor
    backgrounds: torch.Tensor
    holes: torch.Tensor
    sprites: torch.Tensor
    places: torch.Tensor

    def on_device(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures (B, 3, H, W) float32 in [-1, 1] and holes (B, 1, H, W) of 0 and 1."""
        return to_tensor(self.pictures.to(DEVICE)), self.holes[:, None].to(DEVICE).float()


class _Drawing(torch.utils.data.Dataset[data.Sample]):
    """Samples by number: the same, whichever process draws them."""

    def __init__(self, size: int, seed: int, count: int) -> None:
        self.size, self.seed, self.count = size, seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> data.Sample:
        return data.sample(self.size, np.random.default_rng([self.seed, index]))


def _collate(samples: list[data.Sample]) -> Drawn:
    pictures, backgrounds, holes = (
        torch.from_numpy(np.stack([getattr(s, name) for s in samples])) for name in ("picture", "background", "hole")
    )
    sprites = torch.tensor([s.sprite for s in samples], dtype=torch.int16)
    places = torch.tensor([dataclasses.astuple(s.place) for s in samples], dtype=torch.float32)
    return Drawn(pictures, backgrounds, holes, sprites, places)


def drawn_batches(size: int, batch: int, seed: int, count: int = 2**40) -> Iterator[Drawn]:
    """Batches of ``count`` newly drawn samples; endless, in effect, where none is given."""
    loader: torch.utils.data.DataLoader[data.Sample] = torch.utils.data.DataLoader(
        _Drawing(size, seed, count),
        batch_size=batch,
        num_workers=DRAWERS,
        collate_fn=_collate,
        prefetch_factor=8 if DRAWERS else None,
    )
    yield from loader


DRAWN = ("pictures", "pixel_holes")  # large, and read from the disk batch by batch
ENCODED = ("latents", "masked", "backgrounds", "holes", "sprites", "places")


def cache_path(kind: str, size: int) -> pathlib.Path:
    """Where a part of the training set of a size lies; ``kind`` is of ``DRAWN`` or ``ENCODED``."""
    return BUILD_DIR / f"{kind}_{size}.npy"


def _partial_path(kind: str, size: int) -> pathlib.Path:
    return cache_path(kind, size).with_suffix(".partial")


def encode(vae: AsymmetricAutoencoderKL, size: int, count: int, seed: int) -> None:
    """Draws the training set once and keeps it, with its latents: ``(N, 4, h, w)`` float16, already scaled."""
    vae = vae.eval().to(DEVICE, memory_format=CONVOLUTION_LAYOUT)
    side = size // LATENT_STRIDE
    BUILD_DIR.mkdir(parents=True, exist_ok=True)
    layout: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "pictures": (np.uint8, (size, size, 3)),
        "pixel_holes": (np.bool_, (size, size)),
        "latents": (np.float16, (4, side, side)),
        "masked": (np.float16, (4, side, side)),
        "backgrounds": (np.float16, (4, side, side)),
        "holes": (np.bool_, (side, side)),
        "sprites": (np.int16, ()),
        "places": (np.float32, (3,)),
    }
    store = {
        kind: np.lib.format.open_memmap(_partial_path(kind, size), "w+", dtype, (count, *shape))
        for kind, (dtype, shape) in layout.items()
    }
    start, first = time.monotonic(), 0

    @torch.no_grad()  # which belongs to a thread, like the number of threads
    def latents_of(pictures: torch.Tensor) -> np.ndarray:
        with half_precision():
            latents = vae.encode(pictures).latent_dist.mode().float() * vae.config.scaling_factor
        return np.asarray(latents.half().cpu())

    with concurrent.futures.ThreadPoolExecutor(THREADS, initializer=start_worker) as pool:
        for drawn in drawn_batches(size, ENCODED_AT_ONCE, seed, count):
            pictures, holes = drawn.on_device()
            rows = slice(first, first + len(pictures))
            has_object = drawn.sprites >= 0
            backgrounds = to_tensor(drawn.backgrounds[has_object].to(DEVICE))
            sets = (pictures, pictures * (1 - holes), backgrounds)
            encoded = list(pool.map(latents_of, [part for whole in sets for part in whole.chunk(SLICES)]))
            whole, masked, without = (np.concatenate(encoded[i * SLICES : (i + 1) * SLICES]) for i in range(len(sets)))
            store["pictures"][rows], store["pixel_holes"][rows] = drawn.pictures, drawn.holes
            store["latents"][rows], store["masked"][rows], store["backgrounds"][rows] = whole, masked, whole
            store["backgrounds"][np.arange(rows.start, rows.stop)[has_object.numpy()]] = without
            store["holes"][rows] = F.max_pool2d(holes, LATENT_STRIDE)[:, 0].cpu() > 0
            store["sprites"][rows], store["places"][rows] = drawn.sprites, drawn.places / LATENT_STRIDE
            first = rows.stop
            if first // ENCODED_AT_ONCE % 10 == 0:
                print(f"{first} of {count}, {first / (time.monotonic() - start):.0f} samples/s", flush=True)
    for kind, array in store.items():
        array.flush()
        _partial_path(kind, size).replace(cache_path(kind, size))


@dataclasses.dataclass(frozen=True)
class Batch:
    """Pictures, holes and what they show.

    Attributes:
        pictures: (B, H, W, 3) uint8.
        pixel_holes: (B, H, W) bool.
        latents: (B, 4, h, w), scaled.
        masked: The same without the hole.
        backgrounds: The same without the object.
        holes: (B, 1, h, w) 0 or 1: cells that hold any hole.
        sprites: (B,) of the objects; -1 of a background.
        places: (B, 3) of the objects, in latent cells.
    """

    pictures: torch.Tensor
    pixel_holes: torch.Tensor
    latents: torch.Tensor
    masked: torch.Tensor
    backgrounds: torch.Tensor
    holes: torch.Tensor
    sprites: torch.Tensor
    places: torch.Tensor

    def chunk(self, count: int) -> list[Batch]:
        """The batch in ``count`` equal slices."""
        parts = zip(*(getattr(self, f.name).chunk(count) for f in dataclasses.fields(self)), strict=True)
        return [Batch(*part) for part in parts]


def cached_batches(size: int, batch: int, seed: int, object_share: float | None = None) -> Iterator[Batch]:
    """Random batches of the encoded samples, without end; as many of them with an object as were drawn, or a share."""
    store = {kind: torch.from_numpy(np.load(cache_path(kind, size))).to(DEVICE) for kind in ENCODED}
    pictures, pixel_holes = (np.load(cache_path(kind, size), mmap_mode="r") for kind in DRAWN)
    generator = torch.Generator(DEVICE).manual_seed(seed)
    has_object = (store["sprites"] >= 0).float()
    share = float(has_object.mean())
    wanted = share if object_share is None else object_share
    weights = has_object * wanted / share + (1 - has_object) * (1 - wanted) / (1 - share)
    while True:
        order = torch.multinomial(weights, len(weights), replacement=wanted != share, generator=generator)
        for rows in torch.split(order[: len(order) // batch * batch], batch):
            numbers = rows.cpu().numpy()
            yield Batch(
                torch.from_numpy(pictures[numbers]).to(DEVICE),
                torch.from_numpy(pixel_holes[numbers]).to(DEVICE),
                store["latents"][rows].float(),
                store["masked"][rows].float(),
                store["backgrounds"][rows].float(),
                store["holes"][rows].float()[:, None],
                store["sprites"][rows].long(),
                store["places"][rows],
            )
