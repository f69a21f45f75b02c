"""A LoRA file → the low-rank matrices that it adds to the weights of a model.

diffusers' and PEFT's own loaders read the file, with its keys as diffusers, kohya's scripts or the web UI write them:
they put PEFT's layers into the model, the matrices are taken out of these, and the model is as it was before.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import safetensors.torch
import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils.peft_utils import recurse_remove_peft_layers
from peft.tuners.lora import Conv2d, Linear, LoraLayer

from sd_inpaint.diffusion.lora_files import LoraFile
from sd_inpaint.diffusion.sources import first_line
from sd_inpaint.errors import WeightsError

_UNSUPPORTED: Final = {
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "hada_w": "a LoHa (LyCORIS)",
    "lokr_w": "a LoKr (LyCORIS)",
    "oft_": "an OFT (LyCORIS)",
    "lora_mid": "a Tucker decomposition (LyCORIS)",
    "lora_B.bias": "a LoRA with biases",
}
"""Pieces of keys that only other kinds of adapters have, which are not a product of two matrices."""

_DOWN: Final = ("lora_down.weight", "lora_A.weight", ".down.weight")
"""How the first matrix of each layer ends, in all spellings."""

_NAME: Final = "adapter"


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What is added to one weight: ``scale × up @ down``. On the CPU, in the file's number format.

    Attributes:
        down: (rank, inputs); those of a convolution are its channels times its window.
        up: (outputs, rank).
        scale: Alpha over rank.
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A LoRA that fits the model.

    Attributes:
        file: Where it came from.
        layers: What it adds, by the weight's name with its component's: ``unet.mid_block.….weight``.
    """

    file: LoraFile
    layers: Mapping[str, LowRank]

    @property
    def components(self) -> list[str]:
        """What it changes: ``unet``, ``text_encoder``, or both."""
        return sorted({name.partition(".")[0] for name in self.layers}, reverse=True)


def load_adapter(file: LoraFile, components: Mapping[str, Any]) -> Adapter:
    """Reads a file.

    Args:
        file: A safetensors file that is whole.
        components: ``unet`` and ``text_encoder``, as they are afterwards.

    Raises:
        WeightsError: If it is no LoRA, one of another kind, or one for a model of another architecture.
    """
    tensors = safetensors.torch.load_file(file.path)
    for piece, kind in _UNSUPPORTED.items():
        if any(piece in key for key in tensors):
            raise WeightsError(f"{file.path} is {kind}, which this service does not support.\nUse a plain LoRA.")
    expected = sum(key.endswith(_DOWN) for key in tensors)
    if not expected:
        raise WeightsError(f"{file.path} is not a LoRA: it has no pairs of low-rank matrices.")
    try:
        with _loaded(tensors, components):
            layers = dict(_take_layers(components, tensors))
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
        # The loaders' own, of keys and shapes that they cannot place.
        raise _unfit(file, first_line(error)) from error
    if len(layers) != expected:
        raise _unfit(file, f"{expected - len(layers)} of its {expected} layers are not in this model")
    return Adapter(file, layers)


@contextmanager
def _loaded(tensors: dict[str, torch.Tensor], components: Mapping[str, Any]) -> Iterator[None]:
    """Has diffusers put the layers in, and takes them out at the end."""
    loader, unet, text_encoder = StableDiffusionLoraLoaderMixin, components["unet"], components["text_encoder"]
    state, alphas, metadata = loader.lora_state_dict(dict(tensors), unet_config=unet.config, return_lora_metadata=True)
    place = {"network_alphas": alphas, "metadata": metadata, "adapter_name": _NAME, "low_cpu_mem_usage": True}
    try:
        loader.load_lora_into_unet(state, unet=unet, **place)
        loader.load_lora_into_text_encoder(state, text_encoder=text_encoder, **place)
        yield
    finally:
        for component in (unet, text_encoder):
            recurse_remove_peft_layers(component)
            if hasattr(component, "peft_config"):
                del component.peft_config
            component._hf_peft_config_loaded = False


def _take_layers(components: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, LowRank]]:
    dtype = next(iter(tensors.values())).dtype
    for component, module in components.items():
        for name, layer in module.named_modules():
            if not isinstance(layer, LoraLayer):
                continue
            if not isinstance(layer, Linear | Conv2d):
                raise ValueError(f"{component}.{name} is of a kind that LoRAs here do not change")
            down, up = (part[_NAME].weight.detach().flatten(1) for part in (layer.lora_A, layer.lora_B))
            weight = layer.get_base_layer().weight
            if (up.shape[0], down.shape[1]) != (weight.shape[0], weight[0].numel()):
                raise ValueError(f"{component}.{name} has another size")
            down, up = (matrix.to("cpu", dtype, copy=True) for matrix in (down, up))
            yield f"{component}.{name}.weight", LowRank(down, up, float(layer.scaling[_NAME]))


def _unfit(file: LoraFile, reason: str) -> WeightsError:
    return WeightsError(
        f"{file.path} is a LoRA for a model of another architecture ({reason}).\nUse one for Stable Diffusion 1.x, or "
        "whatever the served model is made of."
    )
