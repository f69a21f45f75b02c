"""Real diffusers and transformers classes at tiny size: mocks could only confirm a test against itself."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AsymmetricAutoencoderKL, AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import AddedToken
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sd_inpaint.diffusion.denoiser import Denoiser
from sd_inpaint.diffusion.devices import Device
from sd_inpaint.diffusion.model import TorchModel
from sd_inpaint.diffusion.safety import SafetyChecker

TEXT_LENGTH = 16

# Tensors this small are slower on two threads than on one, and much slower beside other work.
torch.set_num_threads(1)


def make_components(*, vae_levels: int = 3, sample_size: int = 16, seed: int = 0) -> dict[str, Any]:
    """Makes the components of an inpainting model with random weights that are always the same.

    Args:
        vae_levels: The VAE's stride is 2 to the power of one less.
        sample_size: Side of the native latents, in cells.
        seed: Of the weights.
    """
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=9,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16, 16)[:vae_levels],
        down_block_types=("DownEncoderBlock2D",) * vae_levels,
        up_block_types=("UpDecoderBlock2D",) * vae_levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=sample_size * 2 ** (vae_levels - 1),
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    modules = {"unet": unet.eval(), "vae": vae.eval(), "text_encoder": text_encoder.eval()}
    return {**modules, "tokenizer": tokenizer, "scheduler": scheduler}


def make_fitting_vae(*, sample_size: int = 16, seed: int = 0) -> AsymmetricAutoencoderKL:
    """Makes an autoencoder for the same latents whose decoder is shown what is kept; its decoder is the wider one."""
    torch.manual_seed(seed)
    vae = AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        down_block_out_channels=(8, 16, 16),
        up_block_types=("UpDecoderBlock2D",) * 3,
        up_block_out_channels=(8, 16, 32),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=sample_size * 4,
    )
    return vae.eval()


def make_tokenizer() -> CLIPTokenizer:
    """Makes a tokenizer with no merges: one token a byte, so that it takes any text."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[],
        model_max_length=TEXT_LENGTH,
        eos_token=AddedToken("<|endoftext|>"),
    )


def make_denoiser(
    components: dict[str, Any], *, max_batch: int = 1, safety_checker: SafetyChecker | None = None
) -> Denoiser:
    """Makes a denoiser over components, in float32 on the CPU."""
    device = Device(torch.device("cpu"), torch.float32, "cpu")
    model = TorchModel(**components, device=device)
    return Denoiser(model, device, max_batch=max_batch, max_canvas_pixels=1 << 22, safety_checker=safety_checker)


def save(components: dict[str, Any], folder: Path) -> Path:
    """Writes components as a folder in diffusers' layout."""
    for name, component in components.items():
        component.save_pretrained(folder / name)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionInpaintPipeline"}), "utf-8")
    return folder
