"""Weights in diffusers' layout → the names that Stable Diffusion's authors gave them, in one file.

Source: the modules of CompVis/latent-diffusion, openaimodel.py and autoencoder.py, and the order in which they stand.
"""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT_ENCODER = "cond_stage_model.transformer.text_model."

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def single_file(folder: Path) -> dict[str, torch.Tensor]:
    """Gives the tensors of a model's UNet, VAE and text encoder under the names of a checkpoint in one file."""
    unet, vae, text = (
        load_file(next((folder / name).glob("*.safetensors"))) for name in ("unet", "vae", "text_encoder")
    )
    configs = [json.loads((folder / name / "config.json").read_text("utf-8")) for name in ("unet", "vae")]
    tensors = {UNET + unet_name(name, configs[0]): value for name, value in unet.items()}
    blocks = len(configs[1]["block_out_channels"])
    tensors |= {VAE + vae_name(name, blocks): value for name, value in vae.items()}
    tensors |= {TEXT_ENCODER + name.removeprefix("text_model."): value for name, value in text.items()}
    # Is in checkpoints, and of no use.
    tensors[TEXT_ENCODER + "embeddings.position_ids"] = torch.arange(77)[None]
    return {name: value.contiguous() for name, value in tensors.items()}


def unet_name(name: str, config: dict[str, list[str]]) -> str:
    """Gives the name of a UNet's tensor: its blocks are one list on the way down, and one on the way up."""
    for mine, theirs in OUTER.items():
        if name.startswith(f"{mine}."):
            return name.replace(mine, theirs, 1)
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        place = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{place}.{inner(match[1], match[3])}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", name)
    assert match, name
    way, block, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    layers: int = config["layers_per_block"] + 1  # type: ignore[assignment, operator]  # a number among lists
    if way == "down":
        number = 1 + block * layers + index
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * layers}.0.{rest.replace('conv', 'op', 1)}"
        return f"input_blocks.{number}.{int(kind == 'attentions')}.{inner(kind, rest)}"
    if kind == "upsamplers":
        place = 2 if config["up_block_types"][block].startswith("CrossAttn") else 1
        return f"output_blocks.{block * layers + layers - 1}.{place}.{rest}"
    return f"output_blocks.{block * layers + index}.{int(kind == 'attentions')}.{inner(kind, rest)}"


def inner(kind: str, rest: str) -> str:
    """Gives the name of a tensor within its block."""
    part, _, last = rest.rpartition(".")
    return f"{RESNET[part]}.{last}" if kind == "resnets" else rest


def vae_name(name: str, blocks: int) -> str:
    """Gives the name of a VAE's tensor: its decoder counts from the largest scale."""
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    if match := re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.+)\.(\w+)", name):
        return f"{match[1]}.mid.attn_1.{ATTENTION[match[2]]}.{match[3]}"
    name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda match: f"up.{blocks - 1 - int(match[1])}.block.", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"up.{blocks - 1 - int(match[1])}.upsample", name)
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
