"""Trains the embedded demo model: a small Stable Diffusion inpainting model that paints emoji.

Four steps, each of which can be stopped and run again; it goes on from ``build/demo_model``, or from the exported
model where no checkpoint is there:

    python scripts/train_demo_model.py init                                 # untrained, but it loads
    python scripts/train_demo_model.py vae --minutes 35                     # autoencoder, then its export
    python scripts/train_demo_model.py encode --size 64 --samples 60000     # draw once, keep the latents
    python scripts/train_demo_model.py unet --size 64 --minutes 40          # UNet and text encoder, exported as they improve
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
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

import demo_data
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL_DIR = ROOT / "src" / "sd_inpaint" / "demo_model"
BUILD_DIR = ROOT / "build" / "demo_model"

LATENT_STRIDE = 4  # pixels per latent cell and axis; at 8, four channels could not hold 5/255
TEXT_WIDTH = 128
MAX_TOKENS = 77  # as CLIP
MERGES = 1500  # enough for every word of the captions to be one token
LOG_VARIANCE = -14.0  # of the posterior: std 0.001 of a unit latent, so that sampling it changes nothing
LATENT_NOISE = 0.03  # std added while the autoencoder learns, so that near latents mean near pictures
HOLE_WEIGHT = 10.0
CAPTION_DROPOUT = 0.12
MIN_SNR_GAMMA = 5.0  # Source: Hang et al. (2023), "Efficient Diffusion Training via Min-SNR Weighting Strategy"
EMA_DECAY = 0.999
THREADS = 2
SLICES = 4  # of a batch, shared out among the threads


# --- the untrained model ---------------------------------------------------------------------------------------------


def build_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level BPE with merges learnt from the captions; every text has tokens, emoji and Chinese too."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(",", "isolated"), pre_tokenizers.WhitespaceSplit()]
    )
    trainer = trainers.BpeTrainer(vocab_size=MERGES + 256, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(demo_data.all_captions(), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # The order of OpenAI's own vocabulary: bytes, bytes at the end of a word, merges, the two marks.
    words = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def build_vae() -> AutoencoderKL:
    """The autoencoder: stride 4, four channels, no attention, hence any size."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 80),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=96,
        scaling_factor=1.0,
        mid_block_add_attention=False,
        force_upcast=False,
    )
    start_linear(vae)
    return vae


@torch.no_grad()
def start_linear(vae: AutoencoderKL) -> None:
    """Sets the autoencoder up as a linear code: four principal components of 4x4 patches, mean colour back.

    From random weights the first twenty minutes go into finding absolute colour behind the group norms. Here every
    residual branch starts at zero, and a signal s passes a final norm and SiLU as a group (k, -k, s, -s): the constant
    k fixes the group's scale, and silu(s) - silu(-s) = s.
    """
    k = 3.0
    for name, conv in vae.named_modules():
        if name.endswith("conv2"):
            torch.nn.init.zeros_(conv.weight)
            torch.nn.init.zeros_(conv.bias)

    def only(conv: torch.nn.Conv2d, rows: int) -> torch.Tensor:
        conv.weight[:rows] = 0
        conv.bias[:rows] = 0
        return conv.weight

    def signals_to_groups(conv: torch.nn.Conv2d, weights: torch.Tensor, norm: torch.nn.GroupNorm) -> None:
        """Makes a 1x1 convolution put each row of ``weights`` (S, in) into a group of ``norm`` of its own."""
        width = norm.num_channels // norm.num_groups
        only(conv, len(weights) * width)
        for i, row in enumerate(weights):
            conv.bias[i * width], conv.bias[i * width + 1] = k, -k
            conv.weight[i * width + 2, : len(row), 0, 0] = row
            conv.weight[i * width + 3, : len(row), 0, 0] = -row

    def groups_to_outputs(conv: torch.nn.Conv2d, count: int, norm: torch.nn.GroupNorm) -> None:
        width = norm.num_channels // norm.num_groups
        conv.weight *= 0.02  # the other channels begin as a faint noise
        only(conv, count)[:count, : count * width] = 0
        scale = k * math.sqrt(2 / width)  # what the norm divides by, signals being small beside k
        for i in range(count):
            conv.weight[i, i * width + 2, 1, 1], conv.weight[i, i * width + 3, 1, 1] = scale, -scale

    rng = np.random.default_rng(3)
    pictures = to_tensor(np.stack([demo_data.sample(64, rng).picture for _ in range(256)]))
    # Encoder: colours, 2x2 pixels side by side, 4x4 pixels side by side, components.
    encoder, decoder = vae.encoder, vae.decoder
    weight = only(encoder.conv_in, 3)
    patches = pictures
    for c in range(3):
        weight[c, c, 1, 1] = 1
    for block, channels in ((encoder.down_blocks[0], 3), (encoder.down_blocks[1], 12)):
        weight = only(block.downsamplers[0].conv, 4 * channels)
        for i, (dy, dx) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            for c in range(channels):
                weight[i * channels + c, c, dy, dx] = 1
        patches = torch.cat([patches[:, :, dy::2, dx::2] for dy in (0, 1) for dx in (0, 1)], 1)
    weight = only(encoder.down_blocks[1].resnets[0].conv_shortcut, 12)
    weight[range(12), range(12), 0, 0] = 1
    rows = patches.permute(0, 2, 3, 1).reshape(-1, 48).double()
    values, vectors = torch.linalg.eigh(torch.cov(rows.T))
    values, vectors = values[-4:].float(), vectors[:, -4:].T.float()
    shortcut = encoder.down_blocks[2].resnets[0].conv_shortcut
    signals_to_groups(shortcut, vectors / values.sqrt()[:, None], encoder.conv_norm_out)
    groups_to_outputs(encoder.conv_out, 4, encoder.conv_norm_out)
    for conv, gain in ((vae.quant_conv, 1.0), (vae.post_quant_conv, 1.0)):
        only(conv, len(conv.weight))[range(4), range(4), 0, 0] = gain
    vae.quant_conv.bias[4:] = LOG_VARIANCE
    # Decoder: mean colour of the patch, enlarged twice by a tent filter.
    mean_color = (vectors * values.sqrt()[:, None]).reshape(4, 16, 3).mean(1)  # (4, 3)
    only(decoder.conv_in, 3)[:3, :, 1, 1] = mean_color.T
    tent = torch.tensor([0.25, 0.5, 0.25])
    for block in decoder.up_blocks:
        if block.resnets[0].conv_shortcut is not None and block is not decoder.up_blocks[2]:
            only(block.resnets[0].conv_shortcut, 3)[range(3), range(3), 0, 0] = 1
        for sampler in block.upsamplers or ():
            only(sampler.conv, 3)[range(3), range(3)] = torch.outer(tent, tent)
    signals_to_groups(decoder.up_blocks[2].resnets[0].conv_shortcut, torch.eye(3), decoder.conv_norm_out)
    groups_to_outputs(decoder.conv_out, 3, decoder.conv_norm_out)


def build_unet(sample_size: int) -> UNet2DConditionModel:
    """The UNet, randomly initialised; ``sample_size`` in latent cells."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=9,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 112, 160),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # which diffusers reads as the number of heads
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text encoder for a tokenizer's vocabulary, randomly initialised."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1.5. Source: its scheduler/scheduler_config.json."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


@dataclasses.dataclass
class Parts:
    """The trained parts of the model and the tokenizer that belongs to them."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL

    def export(self, folder: pathlib.Path = MODEL_DIR) -> None:
        """Writes the model in half precision, in the layout of a diffusers repository."""
        StableDiffusionInpaintPipeline(
            vae=copy.deepcopy(self.vae).half(),
            text_encoder=copy.deepcopy(self.text_encoder).half(),
            tokenizer=self.tokenizer,
            unet=copy.deepcopy(self.unet).half(),
            scheduler=build_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder, safe_serialization=True)
        for weights in folder.rglob("*.safetensors"):
            weights.chmod(0o644)  # written readable by their owner only, while the service may run as another user

    @classmethod
    def load(cls, folder: pathlib.Path = MODEL_DIR) -> Parts:
        """Reads an exported model, in single precision."""
        return cls(
            CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),
            CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", torch_dtype=torch.float32),
            UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=torch.float32),
            AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32),
        )


def init(_: argparse.Namespace) -> None:
    """Exports an untrained model."""
    tokenizer = build_tokenizer()
    parts = Parts(tokenizer, build_text_encoder(tokenizer), build_unet(96 // LATENT_STRIDE), build_vae())
    parts.export()
    for name in ("text_encoder", "unet", "vae"):
        millions = sum(p.numel() for p in getattr(parts, name).parameters()) / 1e6
        print(f"{name}: {millions:.2f} M parameters")
    print(f"tokenizer: {len(tokenizer)} tokens; 'a beautiful red rose' is {tokenizer('a beautiful red rose').input_ids}")


# --- training, what both networks share ------------------------------------------------------------------------------


class Ema:
    """A moving average of the parameters of some modules; the copies in ``modules`` hold it."""

    def __init__(self, modules: list[torch.nn.Module]) -> None:
        self.sources = [p for m in modules for p in m.parameters()]
        self.modules = [copy.deepcopy(m).eval().requires_grad_(False) for m in modules]
        self.targets = [p for m in self.modules for p in m.parameters()]
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
    in every operation, these once a step, and a worker that is held up leaves slices to the other.
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


def save_checkpoint(path: pathlib.Path, modules: list[torch.nn.Module], ema: Ema, optimizer: torch.optim.Optimizer) -> None:
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


def load_checkpoint(path: pathlib.Path, modules: list[torch.nn.Module], ema: Ema, optimizer: torch.optim.Optimizer) -> bool:
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


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """``(B, H, W, 3)`` uint8 to ``(B, 3, H, W)`` float32 in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)


# --- the autoencoder -------------------------------------------------------------------------------------------------


def vae_loss(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """Mean absolute error, with extra weight on edges and on the coarse picture; ``pictures`` as ``to_tensor`` gives."""
    with torch.autocast("cpu", torch.bfloat16):
        mean = vae.encode(pictures).latent_dist.mean.float()
        painted = vae.decode(mean + LATENT_NOISE * torch.randn_like(mean)).sample.float()
    difference = painted - pictures
    error = difference.abs().mean()
    # Edges and the coarse picture get a term of their own, for plain L1 leaves the one soft and the other tinted.
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    coarse = F.avg_pool2d(difference, 4).abs().mean()
    # Half the KL divergence to a unit normal that depends on the mean; it only fixes the scale.
    return error + 0.5 * edges + 0.5 * coarse + 3e-4 * mean.square().mean()


@torch.no_grad()
def vae_error(vae: AutoencoderKL, size: int = 96, count: int = 96) -> float:
    """Mean absolute reconstruction error in grey levels (0..255) on held-out pictures, a third of them with holes."""
    rng = np.random.default_rng(10**6)
    photos = demo_data.HELD_OUT_PHOTOS
    pictures = to_tensor(np.stack([demo_data.vae_picture(size, rng, photos) for _ in range(count)]))
    errors = [
        (vae.decode(vae.encode(batch).latent_dist.mode()).sample.clamp(-1, 1) - batch).abs().mean()
        for batch in pictures.split(16)
    ]
    return 127.5 * float(torch.stack(errors).mean())


@torch.no_grad()
def whitened(vae: AutoencoderKL) -> AutoencoderKL:
    """The same autoencoder with latents of zero mean and unit covariance, the map folded into its 1x1 convolutions.

    A UNet learns sooner when its four channels carry equally much.
    """
    vae = copy.deepcopy(vae)
    rng = np.random.default_rng(7)
    pictures = to_tensor(np.stack([demo_data.sample(96, rng).picture for _ in range(512)]))
    latents = torch.cat([vae.encode(batch).latent_dist.mean for batch in pictures.split(32)])
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


def fresh_pictures(size: int, batch: int, seed: int) -> Iterator[torch.Tensor]:
    """Batches of newly drawn pictures for the autoencoder, without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield to_tensor(np.stack([demo_data.vae_picture(size, rng) for _ in range(batch)]))


def train_vae(args: argparse.Namespace) -> None:
    """Trains the autoencoder, exporting it (whitened) every few minutes."""
    parts = Parts.load()
    vae = parts.vae.train()
    ema = Ema([vae])
    optimizer = torch.optim.AdamW(vae.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    path = BUILD_DIR / "vae.pt"
    load_checkpoint(path, [vae], ema, optimizer)
    clock = Clock(args.minutes, args.lr, args.lr_end, optimizer)
    saved = time.monotonic()

    def keep() -> None:
        save_checkpoint(path, [vae], ema, optimizer)
        parts.vae = whitened(ema.modules[0])
        parts.export()
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
    return cells.any(axis=(2, 4))


@torch.no_grad()
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
    rng, start, batch = np.random.default_rng(args.seed), time.monotonic(), 64
    for first in range(0, count, batch):
        rows = slice(first, min(first + batch, count))
        drawn = [demo_data.sample(args.size, rng) for _ in range(rows.stop - rows.start)]
        pictures = to_tensor(np.stack([s.picture for s in drawn]))
        holes = np.stack([s.hole for s in drawn])
        masked = pictures * torch.from_numpy(~holes)[:, None]
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            for key, batch_pictures in (("latents", pictures), ("masked", masked)):
                store[key][rows] = (vae.encode(batch_pictures).latent_dist.mode().float() * scale).half().numpy()
        store["holes"][rows] = cell_holes(holes)
        store["tokens"][rows] = token_ids(parts.tokenizer, [s.caption for s in drawn])
        if first // batch % 100 == 0:
            print(f"{rows.stop} of {count}, {rows.stop / (time.monotonic() - start):.0f} samples/s", flush=True)
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
    while True:
        order = rng.permutation(len(store["latents"]))
        for first in range(0, len(order) - batch + 1, batch):
            rows = np.sort(order[first : first + batch])
            tokens = store["tokens"][rows].copy()
            dropped = rng.random(batch) < CAPTION_DROPOUT
            tokens[dropped] = empty[rng.integers(len(empty), size=int(dropped.sum()))]
            yield Batch(
                torch.from_numpy(store["latents"][rows].astype(np.float32)),
                torch.from_numpy(store["masked"][rows].astype(np.float32)),
                torch.from_numpy(store["holes"][rows].astype(np.float32))[:, None],
                torch.from_numpy(tokens.astype(np.int64)),
            )


def unet_loss(unet: UNet2DConditionModel, text_encoder: CLIPTextModel, batch: Batch, alphas: torch.Tensor) -> torch.Tensor:
    """Min-SNR weighted noise error, the hole counting ten times; ``alphas`` is the cumulative product, (1000,)."""
    count = len(batch.latents)
    timesteps = torch.randint(0, len(alphas), (count,))
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    noise = torch.randn_like(batch.latents)
    noisy = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * noise
    with torch.autocast("cpu", torch.bfloat16):
        words = text_encoder(batch.tokens).last_hidden_state
        predicted = unet(torch.cat([noisy, batch.holes, batch.masked], 1), timesteps, words).sample
    snr = alpha / (1 - alpha)
    weight = snr.clamp(max=MIN_SNR_GAMMA) / snr * (1 + (HOLE_WEIGHT - 1) * batch.holes)
    weight = weight / (1 + (HOLE_WEIGHT - 1) * batch.holes).mean()
    return (weight * (predicted.float() - noise).square()).mean()


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
    alphas = build_scheduler().alphas_cumprod
    batches = cached_batches(args.size, args.batch, parts.tokenizer, seed=time.time_ns() % 2**32)
    for step in clock.steps():
        slices = next(batches).chunk(SLICES)
        loss = workers.step([functools.partial(unet_loss, *modules, part, alphas) for part in slices], optimizer)
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
    command.set_defaults(run=train_vae)

    command = commands.add_parser("encode", help="draw the training set and keep its latents")
    command.add_argument("--size", type=int, default=64)
    command.add_argument("--samples", type=int, default=60_000)
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    command.set_defaults(run=encode)

    command = commands.add_parser("unet", help="train UNet and text encoder")
    command.add_argument("--minutes", type=float, default=60)
    command.add_argument("--size", type=int, default=64)
    command.add_argument("--batch", type=int, default=64)
    command.add_argument("--lr", type=float, default=1e-3)
    command.add_argument("--lr-end", type=float, default=2e-5)
    command.add_argument("--out", type=pathlib.Path, default=MODEL_DIR, help="folder of the exported model")
    command.set_defaults(run=train_unet)

    args = parser.parse_args()
    torch.set_num_threads(1)  # see Workers
    torch.set_flush_denormal(True)  # denormals slow a young network down many times
    args.run(args)


if __name__ == "__main__":
    main()
