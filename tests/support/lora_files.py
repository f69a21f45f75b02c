"""LoRAs for the tiny model: trained by PEFT, and written in the spellings that trainers have."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict

from tests.support.tiny_model import make_components

UNET_LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1")
TEXT_LAYERS = ("q_proj", "out_proj", "fc1")

TRAINING_STEPS = 8


def train_lora(
    folder: Path, name: str, *, seed: int = 1, rank: int = 4, unet: bool = True, text_encoder: bool = True
) -> Path:
    """Trains a LoRA of the tiny model for a few steps, and writes it as diffusers does.

    It learns to predict one noise from another: nothing of use, but from every layer's own gradient.
    """
    components = make_components()
    torch.manual_seed(seed)
    trained = {}
    for part, layers, wanted in (("unet", UNET_LAYERS, unet), ("text_encoder", TEXT_LAYERS, text_encoder)):
        if wanted:
            config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers))
            components[part].add_adapter(config)
            trained[part] = components[part]
    parameters = [p for module in trained.values() for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    sample, target = torch.randn(2, 9, 16, 16), torch.randn(2, 4, 16, 16)
    tokens = torch.randint(0, 200, (2, 16))
    for _ in range(TRAINING_STEPS):
        optimizer.zero_grad()
        words = components["text_encoder"](tokens).last_hidden_state
        predicted = components["unet"](sample, torch.tensor([400, 700]), words).sample
        (predicted - target).square().mean().backward()
        optimizer.step()
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(trained["unet"]) if unet else None,
        text_encoder_lora_layers=get_peft_model_state_dict(trained["text_encoder"]) if text_encoder else None,
        weight_name=f"{name}.safetensors",
    )
    return folder / f"{name}.safetensors"


def write_kohya(source: Path, target: Path, *, alpha_over_rank: float = 1.0, ldm_blocks: bool = False) -> Path:
    """Writes the same LoRA as kohya's scripts do, which the web UI reads: one flat name a layer, with its alpha.

    Source: the names of sd-scripts' ``networks/lora.py``: the module's path with underscores, behind ``lora_unet_`` or
    ``lora_te_``. With ``ldm_blocks`` the UNet's blocks are named as in the original checkpoints.
    """
    written: dict[str, torch.Tensor] = {}
    for key, tensor in safetensors.torch.load_file(source).items():
        component, _, rest = key.partition(".")
        layer, which = rest.removesuffix(".weight").rsplit(".", 1)
        if component == "text_encoder":
            layer = f"text_model.{layer}"
        elif ldm_blocks:
            layer = _as_ldm(layer)
        flat = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[component] + layer.replace(".", "_")
        if which == "lora_A":
            rank = tensor.shape[0]
            written[f"{flat}.lora_down.weight"] = tensor
            written[f"{flat}.alpha"] = torch.tensor(float(rank) * alpha_over_rank)
        else:
            # The same product, whatever alpha says.
            written[f"{flat}.lora_up.weight"] = (tensor / alpha_over_rank).contiguous()
    safetensors.torch.save_file(written, target, metadata={"ss_network_module": "networks.lora"})
    return target


def write_old_diffusers(source: Path, target: Path) -> Path:
    """Writes the same LoRA as diffusers did before PEFT: ``.lora.down`` and ``.lora.up``, processors for attention."""
    written = {}
    for key, tensor in safetensors.torch.load_file(source).items():
        component, _, rest = key.partition(".")
        layer, which = rest.removesuffix(".weight").rsplit(".", 1)
        direction = {"lora_A": "down", "lora_B": "up"}[which]
        if component == "text_encoder":
            key = f"text_encoder.text_model.{layer}.lora_linear_layer.{direction}.weight"
        elif layer.split(".")[-1] in ("to_q", "to_k", "to_v") or layer.endswith("to_out.0"):
            head, _, last = layer.removesuffix(".0").rpartition(".")
            key = f"unet.{head}.processor.{last}_lora.{direction}.weight"
        else:
            key = f"unet.{layer}.lora.{direction}.weight"
        written[key] = tensor
    safetensors.torch.save_file(written, target)
    return target


def _as_ldm(layer: str) -> str:
    """The name of a UNet's layer in Stable Diffusion's original checkpoints, for one resnet a block."""
    block, _, rest = layer.partition(".")
    if block == "mid_block":
        kind, number, inner = rest.split(".", 2)
        place = {"resnets": int(number) * 2, "attentions": 1}[kind]
        head = f"middle_block.{place}"
    else:
        number, kind, inner_number, inner = rest.split(".", 3)
        side, layers = ("input_blocks", 1) if block == "down_blocks" else ("output_blocks", 2)
        first = 1 if side == "input_blocks" else 0
        index = first + int(number) * (layers + (1 if side == "input_blocks" else 0)) + int(inner_number)
        head = f"{side}.{index}.{0 if kind == 'resnets' else 1}"
    return f"{head}.{inner.replace('conv1', 'in_layers.2')}"


def lora_state(path: Path) -> dict[str, Any]:
    """Reads a file's tensors."""
    return dict(safetensors.torch.load_file(path))
