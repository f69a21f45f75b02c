"""Trains the demo model: a small Stable Diffusion inpainting model that paints emoji.

Six steps, each of which can be stopped and run again; it goes on from ``build/demo_model``, or from the exported
model where no checkpoint is there. On two cores they take hours; where torch finds a GPU, that
computes and the cores draw:

    scripts/demo-model train init                                 # untrained, but it loads
    scripts/demo-model train vae --minutes 35                     # autoencoder, then its export
    scripts/demo-model train text                                 # the captions' objects
    scripts/demo-model train encode --size 64 --samples 60000     # draw once, keep the latents
    scripts/demo-model train unet --size 64 --minutes 40          # UNet and text encoder
    scripts/demo-model train encode --size 96 --samples 40000
    scripts/demo-model train unet --size 96 --minutes 40 --lr 4e-4
    scripts/demo-model train decoder --minutes 40                 # to meet what is kept

    # as the last but one turn was, on one GPU: the autoencoder anew, then the networks on its latents
    scripts/demo-model train vae --size 96 --batch 96 --minutes 2.6 --lr-end 5e-6
    scripts/demo-model train encode --size 96 --samples 160000
    scripts/demo-model train unet --size 96 --batch 1024 --minutes 7 --lr 1.2e-3 --lr-end 5e-6

``scripts/demo-model evaluate`` says how good the result is.
"""

from __future__ import annotations

import argparse
import copy
import functools
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F

from tools.demo_model.captions import background_caption, no_caption, object_caption
from tools.demo_model.decoder import decoder_loss, fitting_errors
from tools.demo_model.objects import OBJECTS
from tools.demo_model.parts import (
    BUILD_DIR,
    LATENT_STRIDE,
    MODEL_DIR,
    TEXT_WIDTH,
    Parts,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
)
from tools.demo_model.samples import cached_batches, drawn_batches, encode, token_ids
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
from tools.demo_model.unet import unet_loss
from tools.demo_model.vae import (
    border_error,
    build_vae,
    decoder_response,
    trained_parameters,
    vae_error,
    vae_loss,
    whitened,
)


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


# --- the autoencoder -------------------------------------------------------------------------------------------------


def train_vae(args: argparse.Namespace) -> None:
    """Trains the autoencoder, exporting it every few minutes.

    The exported latents are whitened, so what was encoded before and a UNet that learnt from it are lost.
    """
    parts = Parts.load()
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
    """Teaches the text encoder which object a caption names, so that the UNet meets words that mean something.

    Every position from the caption's end on has to tell, for the UNet attends to all of them.
    """
    parts = Parts.load()
    text_encoder = parts.text_encoder.to(DEVICE).train()
    nothing = len(OBJECTS)  # the classes after the objects: background, and no caption
    head = torch.nn.Linear(TEXT_WIDTH, nothing + 2, device=DEVICE)
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
            object_caption(OBJECTS[i], rng)
            if i < nothing
            else (background_caption if i == nothing else no_caption)(rng)
            for i in labels
        ]
        tokens = torch.from_numpy(token_ids(parts.tokenizer, captions).astype(np.int64)).to(DEVICE)
        pairs = zip(tokens.chunk(SLICES), torch.from_numpy(labels).to(DEVICE).chunk(SLICES), strict=True)
        loss = workers.step([functools.partial(loss_of, *pair) for pair in pairs], optimizer)
        clock.report(step, loss, args.batch, every_seconds=10)
    parts.export()


# --- the training set ------------------------------------------------------------------------------------------------


def draw_samples(args: argparse.Namespace) -> None:
    """Draws the training set and keeps its latents."""
    encode(Parts.load(), args.size, args.samples, args.seed)


# --- the UNet and the text encoder -----------------------------------------------------------------------------------


def train_unet(args: argparse.Namespace) -> None:
    """Trains UNet and text encoder together on the encoded samples, exporting their average every few minutes."""
    parts = Parts.load()
    modules = [parts.unet.to(DEVICE).train(), parts.text_encoder.to(DEVICE).train()]
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
    alphas: torch.Tensor = build_scheduler().alphas_cumprod.to(DEVICE)
    batches = cached_batches(args.size, args.batch, parts.tokenizer, seed=time.time_ns() % 2**32)
    response = decoder_response(parts.vae.to(DEVICE), next(batches).latents)
    for step in clock.steps():
        slices = next(batches).chunk(SLICES)
        loss = workers.step(
            [functools.partial(unet_loss, parts.unet, parts.text_encoder, response, part, alphas) for part in slices],
            optimizer,
        )
        ema.update()
        clock.report(step, loss, args.batch)
        if time.monotonic() - saved > 300:
            keep()
            saved = time.monotonic()
    keep()


# --- the decoder -----------------------------------------------------------------------------------------------------


def train_decoder(args: argparse.Namespace) -> None:
    """Trains the decoder on what the UNet paints; the latents stay as they are."""
    parts = Parts.load()
    unet, text_encoder = parts.unet.to(DEVICE).eval(), parts.text_encoder.to(DEVICE).eval()
    vae = parts.vae.to(DEVICE, memory_format=CONVOLUTION_LAYOUT).train()
    modules = [vae.post_quant_conv, vae.decoder]
    ema = Ema(modules)
    parameters = [p for m in modules for p in trained_parameters(m)]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    path = BUILD_DIR / "decoder.pt"
    load_checkpoint(path, modules, ema, optimizer)
    clock = Clock(args.minutes, args.lr, args.lr_end, optimizer)
    saved = time.monotonic()

    def keep() -> None:
        save_checkpoint(path, modules, ema, optimizer)
        averaged = copy.deepcopy(vae)
        averaged.post_quant_conv, averaged.decoder = ema.modules
        Parts(parts.tokenizer, text_encoder, unet, averaged).export(args.out)
        in_hole, kept = fitting_errors(averaged, unet, text_encoder, some, alphas)
        print(f"held-out error {vae_error(averaged):.2f}/255; shown the picture {in_hole:.2f} in the hole, ", end="")
        print(f"{kept:.2f} in what is kept", flush=True)

    workers = Workers()
    alphas: torch.Tensor = build_scheduler().alphas_cumprod.to(DEVICE)
    batches = cached_batches(args.size, args.batch, parts.tokenizer, seed=time.time_ns() % 2**32)
    some = next(batches)
    for step in clock.steps():
        slices = next(batches).chunk(SLICES)
        losses = [functools.partial(decoder_loss, vae, unet, text_encoder, part, alphas) for part in slices]
        loss = workers.step(losses, optimizer)
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
    commands.add_parser("init", help="export an untrained model").set_defaults(run=init)

    command = commands.add_parser("vae", help="train the autoencoder")
    command.add_argument("--minutes", type=float, default=35)
    command.add_argument("--size", type=int, default=64, help="side of the pictures in pixels")
    command.add_argument("--batch", type=int, default=16)
    command.add_argument("--lr", type=float, default=1e-3)
    command.add_argument("--lr-end", type=float, default=2e-5)
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
    command.set_defaults(run=draw_samples)

    command = commands.add_parser("unet", help="train UNet and text encoder")
    command.add_argument("--minutes", type=float, default=60)
    command.add_argument("--size", type=int, default=64)
    command.add_argument("--batch", type=int, default=32)
    command.add_argument("--lr", type=float, default=8e-4)
    command.add_argument("--lr-end", type=float, default=2e-5)
    command.add_argument("--out", type=pathlib.Path, default=MODEL_DIR, help="folder of the exported model")
    command.set_defaults(run=train_unet)

    command = commands.add_parser("decoder", help="teach the decoder to fit what the UNet paints to what is kept")
    command.add_argument("--minutes", type=float, default=60)
    command.add_argument("--size", type=int, default=96)
    command.add_argument("--batch", type=int, default=16)
    command.add_argument("--lr", type=float, default=6e-4)
    command.add_argument("--lr-end", type=float, default=1e-5)
    command.add_argument("--out", type=pathlib.Path, default=MODEL_DIR, help="folder of the exported model")
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
