"""Trains the embedded demo model: a small Stable Diffusion inpainting model that paints emoji.

Five steps, each of which can be stopped and run again; it goes on from ``build/demo_model``, or from the exported
model where no checkpoint is there:

    python scripts/train_demo_model.py init                                 # untrained, but it loads
    python scripts/train_demo_model.py vae --minutes 35                     # autoencoder, then its export
    python scripts/train_demo_model.py text                                 # the captions' objects
    python scripts/train_demo_model.py encode --size 64 --samples 60000     # draw once, keep the latents
    python scripts/train_demo_model.py unet --size 64 --minutes 40          # UNet and text encoder
    python scripts/train_demo_model.py encode --size 96 --samples 40000
    python scripts/train_demo_model.py unet --size 96 --minutes 40 --lr 4e-4

``scripts/eval_demo_model.py`` says how good the result is.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import copy
import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

import demo_data
from demo_parts import (
    LATENT_STRIDE,
    MAX_TOKENS,
    MODEL_DIR,
    ROOT,
    TEXT_WIDTH,
    Parts,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
)
from demo_vae import build_vae, fresh_pictures, to_tensor, vae_error, vae_loss, whitened

BUILD_DIR = ROOT / "build" / "demo_model"

HOLE_WEIGHT = 10.0
CAPTION_DROPOUT = 0.12
# More of the background's captions: then about half of what stands for "no caption" is background, so that guidance,
# which leads away from it, leads towards an object and not away from the background where that is asked for.
BACKGROUND_CAPTION_DROPOUT = 0.45
MIN_SNR_GAMMA = 5.0  # Source: Hang et al. (2023), "Efficient Diffusion Training via Min-SNR Weighting Strategy"
SNR_FLOOR = 0.1  # added to it: in noise alone the object and its place are settled, which min-SNR hardly weighs
EMA_DECAY = 0.999
THREADS = 2
SLICES = 2  # of a batch, one a thread


def init(_: argparse.Namespace) -> None:
    """Exports an untrained model."""
    tokenizer = build_tokenizer()
    parts = Parts(tokenizer, build_text_encoder(tokenizer), build_unet(96 // LATENT_STRIDE), build_vae())
    parts.export()
    for name in ("text_encoder", "unet", "vae"):
        millions = sum(p.numel() for p in getattr(parts, name).parameters()) / 1e6
        print(f"{name}: {millions:.2f} M parameters")
    print(
        f"tokenizer: {len(tokenizer)} tokens; 'a beautiful red rose' is {tokenizer('a beautiful red rose').input_ids}"
    )


# --- training, what both networks share ------------------------------------------------------------------------------


class Ema:
    """A moving average of the parameters of some modules; the copies in ``modules`` hold it."""

    def __init__(self, modules: list[torch.nn.Module]) -> None:
        self.sources: list[torch.Tensor] = [p for m in modules for p in m.parameters()]
        self.modules: list[Any] = [copy.deepcopy(m).eval().requires_grad_(False) for m in modules]
        self.targets: list[torch.Tensor] = [p for m in self.modules for p in m.parameters()]
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Takes one step towards the sources; short memory at first, so that the start is forgotten soon."""
        self.steps += 1
        decay = min(EMA_DECAY, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.targets, self.sources, 1 - decay)


class Clock:
    """Counts down a budget of minutes, sets the learning rate after it, and prints the progress line."""

    def __init__(self, minutes: float, lr: float, lr_end: float, optimizer: torch.optim.Optimizer) -> None:
        self.budget_seconds = minutes * 60
        self.lr, self.lr_end, self.optimizer = lr, lr_end, optimizer
        self.start = self.last_print = time.monotonic()
        self.losses: list[float] = []
        self.samples = 0

    def steps(self, warmup_steps: int = 100) -> Iterator[int]:
        """Yields step numbers until the time is up; linear warm-up, then a cosine over the time that is left."""
        step = 0
        while (done := (time.monotonic() - self.start) / self.budget_seconds) < 1:
            lr = self.lr_end + (self.lr - self.lr_end) * 0.5 * (1 + math.cos(math.pi * done))
            for group in self.optimizer.param_groups:
                group["lr"] = lr * min(1, (step + 1) / warmup_steps)
            yield step
            step += 1

    def report(self, step: int, loss: float, samples: int, every_seconds: float = 20) -> None:
        """Notes a step's loss; prints a line now and then."""
        self.losses.append(loss)
        self.samples += samples
        now = time.monotonic()
        if now - self.last_print > every_seconds:
            rate = self.samples / (now - self.last_print)
            left = max(0.0, self.budget_seconds - (now - self.start)) / 60
            lr = self.optimizer.param_groups[0]["lr"]
            mean = sum(self.losses) / len(self.losses)
            print(f"step {step}  loss {mean:.4f}  {rate:.0f} samples/s  lr {lr:.1e}  {left:.1f} min left", flush=True)
            self.last_print, self.losses, self.samples = now, [], 0


Loss = Callable[[], torch.Tensor]  # runs a network on a slice of the batch; the mean loss of the slice, a scalar


def _start_worker() -> None:
    # Both settings belong to the thread that makes them.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


class Workers:
    """Computes a batch's gradient slice by slice on single-threaded workers.

    On a machine that others use too, this is several times faster than two OpenMP threads: those wait for each other
    in every operation, these once a step.
    """

    def __init__(self, count: int = THREADS) -> None:
        self.pool = concurrent.futures.ThreadPoolExecutor(count, initializer=_start_worker)

    def step(self, slices: Sequence[Loss], optimizer: torch.optim.Optimizer) -> float:
        """Takes one optimiser step on the mean of the slices' losses; gives that mean."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def work(loss_of_slice: Loss) -> tuple[float, tuple[torch.Tensor, ...]]:
            loss = loss_of_slice()
            # Not loss.backward(), which would add to the same .grad from two threads.
            return loss.item(), torch.autograd.grad(loss / len(slices), parameters)

        results = list(self.pool.map(work, slices))
        first, *others = (list(gradients) for _, gradients in results)
        for gradients in others:
            torch._foreach_add_(first, gradients)
        for parameter, gradient in zip(parameters, first, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return sum(loss for loss, _ in results) / len(results)


def save_checkpoint(
    path: pathlib.Path, modules: list[torch.nn.Module], ema: Ema, optimizer: torch.optim.Optimizer
) -> None:
    """Writes everything that training needs to go on; never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "modules": [m.state_dict() for m in modules],
        "ema": [m.state_dict() for m in ema.modules],
        "ema_steps": ema.steps,
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def load_checkpoint(
    path: pathlib.Path, modules: list[torch.nn.Module], ema: Ema, optimizer: torch.optim.Optimizer
) -> bool:
    """Goes on from a checkpoint, if there is one."""
    if not path.exists():
        return False
    state = torch.load(path, weights_only=True)
    for module, weights in zip([*modules, *ema.modules], [*state["modules"], *state["ema"]], strict=True):
        module.load_state_dict(weights)
    ema.steps = state["ema_steps"]
    optimizer.load_state_dict(state["optimizer"])
    print(f"going on from {path.name}", flush=True)
    return True


# --- the autoencoder -------------------------------------------------------------------------------------------------


def train_vae(args: argparse.Namespace) -> None:
    """Trains the autoencoder, exporting it every few minutes.

    The exported latents are whitened, so what was encoded before and a UNet that learnt from it are lost; with
    ``--decoder-only`` they stay good.
    """
    parts = Parts.load()
    vae = parts.vae.train()
    ema = Ema([vae])
    if args.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    path = BUILD_DIR / ("decoder.pt" if args.decoder_only else "vae.pt")
    load_checkpoint(path, [vae], ema, optimizer)
    clock = Clock(args.minutes, args.lr, args.lr_end, optimizer)
    saved = time.monotonic()

    def keep() -> None:
        save_checkpoint(path, [vae], ema, optimizer)
        parts.vae = ema.modules[0] if args.decoder_only else whitened(ema.modules[0])
        parts.export(args.out)
        print(f"held-out error {vae_error(parts.vae):.2f}/255", flush=True)

    workers = Workers()
    pictures = fresh_pictures(args.size, args.batch, seed=time.time_ns() % 2**32)
    for step in clock.steps():
        slices = next(pictures).chunk(SLICES)
        loss = workers.step([functools.partial(vae_loss, vae, part) for part in slices], optimizer)
        ema.update()
        clock.report(step, loss, args.batch)
        if time.monotonic() - saved > 300:
            keep()
            saved = time.monotonic()
    keep()


# --- the text encoder ------------------------------------------------------------------------------------------------


def train_text(args: argparse.Namespace) -> None:
    """Teaches the text encoder which object a caption names, so that the UNet meets words that mean something.

    Every position from the caption's end on has to tell, for the UNet attends to all of them.
    """
    parts = Parts.load()
    text_encoder = parts.text_encoder.train()
    nothing = len(demo_data.OBJECTS)  # the classes after the objects: background, and no caption
    head = torch.nn.Linear(TEXT_WIDTH, nothing + 2)
    parameters = [*text_encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    clock = Clock(args.minutes, args.lr, args.lr / 20, optimizer)
    rng, workers = np.random.default_rng(time.time_ns()), Workers()

    def loss_of(tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        states = text_encoder(tokens).last_hidden_state
        ended = (tokens == parts.tokenizer.eos_token_id).flatten()
        logits = head(states.flatten(0, 1)[ended])
        return F.cross_entropy(logits, labels[:, None].expand(-1, tokens.shape[1]).flatten()[ended])

    for step in clock.steps(warmup_steps=20):
        labels = rng.integers(nothing + 2, size=args.batch)
        captions = [
            demo_data.object_caption(demo_data.OBJECTS[i], rng)
            if i < nothing
            else (demo_data.background_caption if i == nothing else demo_data.no_caption)(rng)
            for i in labels
        ]
        tokens = torch.from_numpy(token_ids(parts.tokenizer, captions).astype(np.int64))
        pairs = zip(tokens.chunk(SLICES), torch.from_numpy(labels).chunk(SLICES), strict=True)
        loss = workers.step([functools.partial(loss_of, *pair) for pair in pairs], optimizer)
        clock.report(step, loss, args.batch, every_seconds=10)
    parts.export()


# --- the training set ------------------------------------------------------------------------------------------------


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


def encode(args: argparse.Namespace) -> None:
    """Draws the training set once and keeps its latents: ``(N, 4, h, w)`` float16, already scaled."""
    parts = Parts.load()
    vae, scale = parts.vae.eval(), parts.vae.config.scaling_factor
    side, count = args.size // LATENT_STRIDE, args.samples
    paths = cache_paths(args.size)
    BUILD_DIR.mkdir(parents=True, exist_ok=True)
    shapes = {"latents": (count, 4, side, side), "masked": (count, 4, side, side), "holes": (count, side, side)}
    kinds = {"latents": np.float16, "masked": np.float16, "holes": np.bool_, "tokens": np.uint16}
    shapes["tokens"] = (count, MAX_TOKENS)
    store = {k: np.lib.format.open_memmap(paths[k], "w+", kinds[k], shapes[k]) for k in shapes}
    start, batch = time.monotonic(), 64

    @torch.no_grad()  # which belongs to a thread, like the number of threads
    def fill(first: int) -> tuple[int, list[str]]:
        rows = slice(first, min(first + batch, count))
        rng = np.random.default_rng([args.seed, first])
        drawn = [demo_data.sample(args.size, rng) for _ in range(rows.stop - rows.start)]
        pictures = to_tensor(np.stack([s.picture for s in drawn]))
        holes = np.stack([s.hole for s in drawn])
        masked = pictures * torch.from_numpy(~holes)[:, None]
        with torch.autocast("cpu", torch.bfloat16):
            for key, batch_pictures in (("latents", pictures), ("masked", masked)):
                store[key][rows] = (vae.encode(batch_pictures).latent_dist.mode().float() * scale).half().numpy()
        store["holes"][rows] = cell_holes(holes)
        return first, [s.caption for s in drawn]

    with concurrent.futures.ThreadPoolExecutor(THREADS, initializer=_start_worker) as pool:
        for first, captions in pool.map(fill, range(0, count, batch)):
            # Here and not in the threads: a tokenizer serves one at a time.
            store["tokens"][first : first + len(captions)] = token_ids(parts.tokenizer, captions)
            if first // batch % 50 == 0:
                rate = (first + batch) / (time.monotonic() - start)
                print(f"{first + batch} of {count}, {rate:.0f} samples/s", flush=True)
    for array in store.values():
        array.flush()


# --- the UNet and the text encoder -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Batch:
    """``latents``, ``masked`` (B, 4, h, w) scaled; ``holes`` (B, 1, h, w) 0 or 1; ``tokens`` (B, 77)."""

    latents: torch.Tensor
    masked: torch.Tensor
    holes: torch.Tensor
    tokens: torch.Tensor

    def chunk(self, count: int) -> list[Batch]:
        """The batch in ``count`` equal slices."""
        parts = zip(*(getattr(self, f.name).chunk(count) for f in dataclasses.fields(self)), strict=True)
        return [Batch(*part) for part in parts]


def cached_batches(size: int, batch: int, tokenizer: CLIPTokenizer, seed: int) -> Iterator[Batch]:
    """Random batches of the encoded samples, without end, some of their captions dropped."""
    store = {k: np.load(path, mmap_mode="r") for k, path in cache_paths(size).items()}
    rng = np.random.default_rng(seed)
    empty = token_ids(tokenizer, [demo_data.no_caption(rng) for _ in range(2000)])
    plain = {row.tobytes() for row in token_ids(tokenizer, list(demo_data.BACKGROUND_CAPTIONS))}
    is_background = np.array([row.tobytes() in plain for row in store["tokens"]])
    dropout = np.where(is_background, BACKGROUND_CAPTION_DROPOUT, CAPTION_DROPOUT)
    while True:
        order = rng.permutation(len(store["latents"]))
        for first in range(0, len(order) - batch + 1, batch):
            rows = np.sort(order[first : first + batch])
            tokens = store["tokens"][rows].copy()
            dropped = rng.random(batch) < dropout[rows]
            tokens[dropped] = empty[rng.integers(len(empty), size=int(dropped.sum()))]
            yield Batch(
                torch.from_numpy(store["latents"][rows].astype(np.float32)),
                torch.from_numpy(store["masked"][rows].astype(np.float32)),
                torch.from_numpy(store["holes"][rows].astype(np.float32))[:, None],
                torch.from_numpy(tokens.astype(np.int64)),
            )


def unet_loss(
    unet: UNet2DConditionModel, text_encoder: CLIPTextModel, batch: Batch, alphas: torch.Tensor
) -> torch.Tensor:
    """Min-SNR weighted noise error, the hole counting ten times; ``alphas`` is the cumulative product, (1000,)."""
    count = len(batch.latents)
    # Fewer of the least noisy steps, which have nothing left to decide.
    timesteps = (torch.rand(count) ** 0.75 * len(alphas)).long()
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    noise = torch.randn_like(batch.latents)
    noisy = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * noise
    with torch.autocast("cpu", torch.bfloat16):
        words = text_encoder(batch.tokens).last_hidden_state
        predicted = unet(torch.cat([noisy, batch.holes, batch.masked], 1), timesteps, words).sample
    snr = alpha / (1 - alpha)
    weight = (snr.clamp(max=MIN_SNR_GAMMA) + SNR_FLOOR) / snr * (1 + (HOLE_WEIGHT - 1) * batch.holes)
    weight = weight / (1 + (HOLE_WEIGHT - 1) * batch.holes).mean()
    loss: torch.Tensor = (weight * (predicted.float() - noise).square()).mean()
    return loss


def train_unet(args: argparse.Namespace) -> None:
    """Trains UNet and text encoder together on the encoded samples, exporting their average every few minutes."""
    parts = Parts.load()
    modules = [parts.unet.train(), parts.text_encoder.train()]
    ema = Ema(modules)
    parameters = [p for m in modules for p in m.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    path = BUILD_DIR / "unet.pt"
    load_checkpoint(path, modules, ema, optimizer)
    clock = Clock(args.minutes, args.lr, args.lr_end, optimizer)
    saved = time.monotonic()

    def keep() -> None:
        save_checkpoint(path, modules, ema, optimizer)
        unet, text_encoder = ema.modules
        unet.register_to_config(sample_size=args.size // LATENT_STRIDE)
        Parts(parts.tokenizer, text_encoder, unet, parts.vae).export(args.out)

    workers = Workers()
    alphas: torch.Tensor = build_scheduler().alphas_cumprod
    batches = cached_batches(args.size, args.batch, parts.tokenizer, seed=time.time_ns() % 2**32)
    for step in clock.steps():
        slices = next(batches).chunk(SLICES)
        loss = workers.step(
            [functools.partial(unet_loss, parts.unet, parts.text_encoder, part, alphas) for part in slices], optimizer
        )
        ema.update()
        clock.report(step, loss, args.batch)
        if time.monotonic() - saved > 300:
            keep()
            saved = time.monotonic()
    keep()


# --- command line ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Parses the command line and runs one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("init", help="export an untrained model").set_defaults(run=init)

    command = commands.add_parser("vae", help="train the autoencoder")
    command.add_argument("--minutes", type=float, default=35)
    command.add_argument("--size", type=int, default=64, help="side of the pictures in pixels")
    command.add_argument("--batch", type=int, default=16)
    command.add_argument("--lr", type=float, default=1e-3)
    command.add_argument("--lr-end", type=float, default=2e-5)
    command.add_argument("--decoder-only", action="store_true", help="leave the latents as they are")
    command.add_argument("--out", type=pathlib.Path, default=MODEL_DIR, help="folder of the exported model")
    command.set_defaults(run=train_vae)

    command = commands.add_parser("text", help="teach the text encoder the captions' objects, before the UNet")
    command.add_argument("--minutes", type=float, default=1.5)
    command.add_argument("--batch", type=int, default=64)
    command.add_argument("--lr", type=float, default=1e-3)
    command.set_defaults(run=train_text)

    command = commands.add_parser("encode", help="draw the training set and keep its latents")
    command.add_argument("--size", type=int, default=64)
    command.add_argument("--samples", type=int, default=60_000)
    command.add_argument("--seed", type=int, default=1)
    command.set_defaults(run=encode)

    command = commands.add_parser("unet", help="train UNet and text encoder")
    command.add_argument("--minutes", type=float, default=60)
    command.add_argument("--size", type=int, default=64)
    command.add_argument("--batch", type=int, default=32)
    command.add_argument("--lr", type=float, default=8e-4)
    command.add_argument("--lr-end", type=float, default=2e-5)
    command.add_argument("--out", type=pathlib.Path, default=MODEL_DIR, help="folder of the exported model")
    command.set_defaults(run=train_unet)

    args = parser.parse_args()
    torch.set_num_threads(1)  # see Workers
    torch.set_flush_denormal(True)  # denormals slow a young network down many times
    # At these sizes the fused attention's backward pass is the slowest operation of all; without it a step takes 0.7.
    torch.backends.cuda.enable_flash_sdp(False)
    args.run(args)


if __name__ == "__main__":
    main()
