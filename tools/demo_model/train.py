"""Trains the demo model: a small Stable Diffusion inpainting model that paints rendered emoji into photographs.

    scripts/demo-model train all                  # every step of RECIPE, from nothing; a night on two cores
    scripts/demo-model train all --hours 0.2      # ten minutes, where torch finds a GPU
    scripts/demo-model train unet --minutes 40    # one step of it

Whatever stops goes on when it is run again, from ``build/demo_model``. Where torch finds a GPU, that computes and the
cores draw. ``scripts/demo-model evaluate`` says how good the result is.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import pathlib
import time
from collections.abc import Callable

import numpy as np
import torch

from tools.demo_model.decoder import Critic, Painted, critic_loss, decoder_loss, fitting_errors, paint
from tools.demo_model.parts import (
    BUILD_DIR,
    LATENT_STRIDE,
    MODEL_DIR,
    NATIVE_SIZE,
    Parts,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
)
from tools.demo_model.rollout import Rollout
from tools.demo_model.samples import cached_batches, drawn_batches, encode
from tools.demo_model.sources import fetch
from tools.demo_model.sprite_words import cached_sprite_words
from tools.demo_model.text import drawn_captions, reader, reading_loss, remembered_share, write_memory
from tools.demo_model.training import (
    CONVOLUTION_LAYOUT,
    DEVICE,
    SLICES,
    Clock,
    Ema,
    Workers,
    load_checkpoint,
    save_checkpoint,
)
from tools.demo_model.unet import Sketch, sketch_head, unet_loss, watch_attention
from tools.demo_model.vae import (
    border_error,
    build_vae,
    decoder_response,
    trained_parameters,
    vae_error,
    vae_loss,
    whitened,
)

RECIPE: tuple[tuple[str, float, str], ...] = (
    # Step, its share of the time, its options. Steps without a share take as long as they take.
    ("fetch", 0, ""),
    ("init", 0, ""),
    ("vae", 0.12, "--size 96 --lr-end 5e-6"),
    ("text", 0.04, ""),
    ("encode", 0, "--size 96 --samples 8192"),
    ("unet", 0.38, "--size 96 --object-share 0.85 --lr-end 3e-4"),
    ("encode", 0, "--size 144 --samples 8192"),  # the canvas that the service makes for most holes
    ("unet", 0.34, "--size 144 --batch 16 --rollout 1 --object-share 0.6 --lr 5e-4 --lr-end 5e-6"),
    ("decoder", 0.12, "--size 144 --object-share 0.55"),
)
PAINTING_SHARE = 0.35  # of the decoder's time
ON_GPU = {"vae": "--batch 96", "encode": "--samples 160000", "unet": "--batch 512 --lr 1.2e-3", "decoder": "--batch 64"}
"""What a GPU can do more of; it comes after the options of ``RECIPE``."""


def train_all(args: argparse.Namespace) -> None:
    """Takes the steps of ``RECIPE`` one after the other; those that an earlier run has finished are left out."""
    done_path = BUILD_DIR / "done.json"
    done: list[int] = json.loads(done_path.read_text()) if done_path.exists() else []
    parser = make_parser()
    for number, (step, share, options) in enumerate(RECIPE):
        if number in done:
            continue
        words = [step, *options.split(), *(ON_GPU.get(step, "").split() if DEVICE.type == "cuda" else ())]
        if share:
            words += ["--minutes", str(60 * args.hours * share)]
        if step not in ("fetch", "encode"):
            words += ["--out", str(args.out)]
        elif step == "encode":
            words += ["--model", str(args.out)]
        print(f"step {number + 1} of {len(RECIPE)}: {' '.join(words)}", flush=True)
        chosen = parser.parse_args(words)
        chosen.run(chosen)
        done.append(number)
        BUILD_DIR.mkdir(parents=True, exist_ok=True)
        done_path.write_text(json.dumps(done))


def fetch_sources(_: argparse.Namespace) -> None:
    """Downloads the emoji and the photographs."""
    fetch()


def init(args: argparse.Namespace) -> None:
    """Exports an untrained model."""
    tokenizer = build_tokenizer()
    parts = Parts(tokenizer, build_text_encoder(tokenizer), build_unet(NATIVE_SIZE // LATENT_STRIDE), build_vae())
    parts.export(args.out)
    for name in ("text_encoder", "unet", "vae"):
        millions = sum(p.numel() for p in getattr(parts, name).parameters()) / 1e6
        print(f"{name}: {millions:.2f} M parameters")
    print(
        f"tokenizer: {len(tokenizer)} tokens; 'a beautiful red rose' is {tokenizer('a beautiful red rose').input_ids}"
    )


# --- the autoencoder -------------------------------------------------------------------------------------------------


def train_vae(args: argparse.Namespace) -> None:
    """Trains the autoencoder, exporting it every few minutes.

    The exported latents are whitened, so what was encoded before and a UNet that learnt from it are lost.
    """
    parts = Parts.load(args.out)
    vae = parts.vae.to(DEVICE, memory_format=CONVOLUTION_LAYOUT).train()
    ema = Ema([vae])
    optimizer = torch.optim.AdamW(trained_parameters(vae), lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    path = BUILD_DIR / "vae.pt"
    load_checkpoint(path, [vae], ema, optimizer)
    clock = Clock(args.minutes, args.lr, args.lr_end, optimizer)
    saved = time.monotonic()

    def keep() -> None:
        save_checkpoint(path, [vae], ema, optimizer)
        parts.vae = whitened(ema.modules[0])
        (BUILD_DIR / "decoder.pt").unlink(missing_ok=True)  # is of the latents before
        parts.export(args.out)
        of_border = border_error(parts.vae, *held_out)
        print(f"held-out error {vae_error(parts.vae):.2f}/255, at the hole's border {of_border:.2f}/255", flush=True)

    workers = Workers()
    drawn = drawn_batches(args.size, args.batch, seed=time.time_ns() % 2**32)
    held_out = next(drawn).on_device()
    for step in clock.steps():
        slices = zip(*(tensor.chunk(SLICES) for tensor in next(drawn).on_device()), strict=True)
        loss = workers.step([functools.partial(vae_loss, vae, *part) for part in slices], optimizer)
        ema.update()
        clock.report(step, loss, args.batch)
        if time.monotonic() - saved > 300:
            keep()
            saved = time.monotonic()
    keep()


# --- the text encoder ------------------------------------------------------------------------------------------------


def train_text(args: argparse.Namespace) -> None:
    """Teaches the text encoder to read what captions name, and writes what that looks like into it."""
    parts = Parts.load(args.out)
    text_encoder = parts.text_encoder.to(DEVICE).train()
    end = parts.tokenizer.eos_token_id
    first = reader(text_encoder)
    ema = Ema([first])
    parameters = [p for p in first.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    path = BUILD_DIR / "text.pt"
    load_checkpoint(path, [first], ema, optimizer)
    clock = Clock(args.minutes, args.lr, args.lr / 50, optimizer)
    rng, workers = np.random.default_rng(time.time_ns()), Workers()
    for step in clock.steps(warmup_steps=20):
        captions = [x.to(DEVICE).chunk(SLICES) for x in drawn_captions(parts.tokenizer, args.batch, rng)]
        losses = [functools.partial(reading_loss, first, end, *part) for part in zip(*captions, strict=True)]
        clock.report(step, workers.step(losses, optimizer), args.batch, every_seconds=10)
        ema.update()
    save_checkpoint(path, [first], ema, optimizer)
    (averaged,) = ema.modules
    text_encoder.embeddings, text_encoder.encoder.layers[0] = averaged.embeddings, averaged.encoder.layers[0]
    words = cached_sprite_words(parts.vae)
    write_memory(text_encoder.cpu(), words)
    tokens, labels = drawn_captions(parts.tokenizer, 256, rng)
    print(f"{remembered_share(text_encoder, words, tokens, labels, end):.1%} of what is to be said is said", flush=True)
    parts.export(args.out)


# --- the training set ------------------------------------------------------------------------------------------------


def draw_samples(args: argparse.Namespace) -> None:
    """Draws the training set and keeps its latents."""
    encode(Parts.load(args.model).vae, args.size, args.samples, args.seed)


# --- the UNet --------------------------------------------------------------------------------------------------------


def train_unet(args: argparse.Namespace) -> None:
    """Trains the UNet on the encoded samples, exporting its average every few minutes.

    It is told by perfect words, see ``sprite_words``, what the text encoder learns to say.
    """
    parts = Parts.load(args.out)
    unet = parts.unet.to(DEVICE).train()
    head = sketch_head(unet).to(DEVICE)
    modules = [unet, head]
    ema = Ema(modules)
    watched, sketch = watch_attention(unet), Sketch(unet, head)
    parameters = [p for m in modules for p in m.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    path = BUILD_DIR / "unet.pt"
    load_checkpoint(path, modules, ema, optimizer)
    clock = Clock(args.minutes, args.lr, args.lr_end, optimizer)
    saved = time.monotonic()

    def keep() -> None:
        save_checkpoint(path, modules, ema, optimizer)
        averaged, _ = ema.modules
        Parts(parts.tokenizer, parts.text_encoder, averaged, parts.vae).export(args.out)

    workers = Workers()
    alphas: torch.Tensor = build_scheduler().alphas_cumprod.to(DEVICE)
    words = cached_sprite_words(parts.vae).to(DEVICE)
    seed = time.time_ns() % 2**32
    batches = cached_batches(args.size, args.batch, seed, args.object_share)
    response = decoder_response(parts.vae.to(DEVICE), next(batches).latents)
    rollouts = []
    if args.rollout:
        for number in range(1, SLICES + 1):
            few = round(args.rollout * args.batch / SLICES)
            others = cached_batches(args.size, few, seed + number, args.object_share)
            rollouts.append(Rollout(others, words, response, alphas))
    for step in clock.steps():
        slices = next(batches).chunk(SLICES)
        losses: list[Callable[[], torch.Tensor]] = [
            functools.partial(unet_loss, unet, watched, sketch, words, response, part, alphas) for part in slices
        ]
        if rollouts:
            painted = [functools.partial(rollout.loss, unet, watched, sketch) for rollout in rollouts]
            losses = [functools.partial(_sum_of, *both) for both in zip(losses, painted, strict=True)]
        loss = workers.step(losses, optimizer)
        ema.update()
        clock.report(step, loss, args.batch)
        if time.monotonic() - saved > 300:
            keep()
            saved = time.monotonic()
    keep()


def _sum_of(first: Callable[[], torch.Tensor], second: Callable[[], torch.Tensor]) -> torch.Tensor:
    return first() + second()


# --- the decoder -----------------------------------------------------------------------------------------------------


def train_decoder(args: argparse.Namespace) -> None:
    """Trains the decoder on what the UNet paints, against a critic; the latents stay as they are.

    Painting takes the first part of the time: one sample costs as much as a dozen steps of the decoder. Of the way from
    the decoder before to the one that has learnt, it goes a part: at its end detail is overdone, in outlines that
    nothing has. Source: Wortsman et al. (2022), "Robust fine-tuning of zero-shot models"
    """
    parts = Parts.load(args.out)
    unet = parts.unet.to(DEVICE).eval()
    before = parts.vae.to(DEVICE, memory_format=CONVOLUTION_LAYOUT).eval().requires_grad_(False)
    vae = copy.deepcopy(before).train().requires_grad_(True)
    critic: Critic = Critic().to(DEVICE, memory_format=CONVOLUTION_LAYOUT)  # type: ignore[call-overload]  # as of 4 axes
    learning, first = ([x.post_quant_conv, x.decoder] for x in (vae, before))
    modules = [*learning, *first]  # what it began with is in the checkpoint: the exported one is neither
    ema, critic_ema = Ema(modules), Ema([critic])
    parameters = [p for m in learning for p in trained_parameters(m)]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.5, 0.99), weight_decay=1e-4, fused=True)
    critic_optimizer = torch.optim.AdamW(critic.parameters(), lr=2 * args.lr, betas=(0.5, 0.99), fused=True)
    path, critic_path = BUILD_DIR / "decoder.pt", BUILD_DIR / "critic.pt"
    load_checkpoint(path, modules, ema, optimizer)
    load_checkpoint(critic_path, [critic], critic_ema, critic_optimizer)
    words = cached_sprite_words(parts.vae).to(DEVICE)
    batches = cached_batches(args.size, args.batch, time.time_ns() % 2**32, args.object_share)
    workers = Workers()
    painted: list[Painted] = []
    begun = time.monotonic()
    while time.monotonic() - begun < 60 * args.minutes * PAINTING_SHARE:
        painted += workers.map(functools.partial(paint, unet, words), next(batches).chunk(SLICES))
    print(f"{sum(len(x.latents) for x in painted)} pictures painted", flush=True)
    clock = Clock(args.minutes * (1 - PAINTING_SHARE), args.lr, args.lr_end, optimizer)
    saved = time.monotonic()

    def keep() -> None:
        save_checkpoint(path, modules, ema, optimizer)
        save_checkpoint(critic_path, [critic], critic_ema, critic_optimizer)
        averaged = copy.deepcopy(before)
        for module, learnt in zip((averaged.post_quant_conv, averaged.decoder), ema.modules, strict=False):
            torch._foreach_lerp_(list(module.parameters()), list(learnt.parameters()), args.part)
        Parts(parts.tokenizer, parts.text_encoder, unet, averaged).export(args.out)
        in_hole, kept, of_detail = fitting_errors(averaged, held_out)
        print(f"shown the picture {in_hole:.2f}/255 in the hole, {kept:.2f} in what is kept; detail {of_detail:.3f}")

    held_out = painted.pop(0)
    rng = np.random.default_rng()
    for step in clock.steps():
        slices = [painted[int(i)] for i in rng.choice(len(painted), SLICES, replace=False)]
        shown: list[tuple[torch.Tensor, ...]] = []
        losses = [functools.partial(decoder_loss, vae, critic, x, shown) for x in slices]
        loss = workers.step(losses, optimizer)
        workers.step([functools.partial(critic_loss, critic, *x) for x in shown], critic_optimizer)
        ema.update()
        clock.report(step, loss, args.batch)
        if time.monotonic() - saved > 300:
            keep()
            saved = time.monotonic()
    keep()


# --- command line ----------------------------------------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser; what it gives has ``run``, a function of what it gives."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo-model train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("all", help="every step of the recipe, from nothing")
    command.add_argument("--hours", type=float, default=8, help="for all; drawing and fetching come on top")
    command.add_argument("--out", type=pathlib.Path, default=MODEL_DIR, help="folder of the model")
    command.set_defaults(run=train_all)

    commands.add_parser("fetch", help="download the emoji and the photographs").set_defaults(run=fetch_sources)

    command = commands.add_parser("init", help="export an untrained model")
    command.add_argument("--out", type=pathlib.Path, default=MODEL_DIR, help="folder of the model")
    command.set_defaults(run=init)

    command = commands.add_parser("vae", help="train the autoencoder")
    command.add_argument("--minutes", type=float, default=35)
    command.add_argument("--size", type=int, default=64, help="side of the pictures in pixels")
    command.add_argument("--batch", type=int, default=16)
    command.add_argument("--lr", type=float, default=1e-3)
    command.add_argument("--lr-end", type=float, default=2e-5)
    command.add_argument("--out", type=pathlib.Path, default=MODEL_DIR, help="folder of the model")
    command.set_defaults(run=train_vae)

    command = commands.add_parser(
        "text", help="teach the text encoder what captions name, and write what that looks like"
    )
    command.add_argument("--minutes", type=float, default=4)
    command.add_argument("--batch", type=int, default=64)
    command.add_argument("--lr", type=float, default=1e-3)
    command.add_argument("--out", type=pathlib.Path, default=MODEL_DIR, help="folder of the model")
    command.set_defaults(run=train_text)

    command = commands.add_parser("encode", help="draw the training set and keep its latents")
    command.add_argument("--size", type=int, default=64)
    command.add_argument("--samples", type=int, default=60_000)
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--model", type=pathlib.Path, default=MODEL_DIR, help="whose latents they are")
    command.set_defaults(run=draw_samples)

    command = commands.add_parser("unet", help="train the UNet")
    command.add_argument("--minutes", type=float, default=60)
    command.add_argument("--size", type=int, default=64)
    command.add_argument("--batch", type=int, default=32)
    command.add_argument("--lr", type=float, default=8e-4)
    command.add_argument("--lr-end", type=float, default=2e-5)
    command.add_argument("--rollout", type=float, default=0, help="samples that the UNet paints itself, for one drawn")
    command.add_argument("--object-share", type=float, help="of the samples; as many as were drawn by default")
    command.add_argument("--out", type=pathlib.Path, default=MODEL_DIR, help="folder of the model")
    command.set_defaults(run=train_unet)

    command = commands.add_parser("decoder", help="teach the decoder to fit what the UNet paints to what is kept")
    command.add_argument("--minutes", type=float, default=60)
    command.add_argument("--size", type=int, default=96)
    command.add_argument("--batch", type=int, default=16)
    command.add_argument("--lr", type=float, default=6e-4)
    command.add_argument("--lr-end", type=float, default=1e-5)
    command.add_argument("--object-share", type=float, help="of the samples; as many as were drawn by default")
    command.add_argument("--part", type=float, default=0.65, help="of the way to what is learnt that is gone, 0 to 1")
    command.add_argument("--out", type=pathlib.Path, default=MODEL_DIR, help="folder of the model")
    command.set_defaults(run=train_decoder)
    return parser


def main() -> None:
    """Parses the command line and runs one step."""
    args = make_parser().parse_args()
    torch.set_num_threads(1)  # see Workers
    torch.set_flush_denormal(True)  # denormals slow a young network down many times
    if DEVICE.type == "cpu":
        # At these sizes the fused attention's backward pass is the slowest operation of all; without it a step takes
        # 0.7. The switch is the same for all devices, whatever it is called.
        torch.backends.cuda.enable_flash_sdp(False)
    args.run(args)


if __name__ == "__main__":
    main()
