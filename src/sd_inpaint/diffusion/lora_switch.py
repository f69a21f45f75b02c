"""LoRAs in the weights of a model: one set at a time, put in place and taken out between two calls of the model."""

from collections.abc import Mapping, Sequence
from typing import Final

import torch

from sd_inpaint.diffusion.adapters import Adapter
from sd_inpaint.lora_set import LoraWeight, check_loras, parse_loras

NO_LORAS: Final = ""
"""The set of none."""


class LoraSwitch:
    """Puts sets of LoRAs into a model's weights. Lives as long as the model; only the device thread may call it.

    It writes into the same memory, so whatever holds the weights' addresses (CUDA graphs, compiled code) stays valid.
    The originals are kept beside, on the same device, so that going back is exact to the bit and no error adds up.

    Args:
        components: The model's, by name; those that adapters change.
        adapters: All there are.

    Attributes:
        adapters: By name.
    """

    def __init__(self, components: Mapping[str, torch.nn.Module], adapters: Sequence[Adapter]) -> None:
        self.adapters = {adapter.file.name: adapter for adapter in adapters}
        names = {name for adapter in adapters for name in adapter.layers}
        self._weights = {name: _weight(components, name) for name in sorted(names)}
        self._originals = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._in_place: str | None = NO_LORAS
        self._changed: set[str] = set()

    @property
    def original_bytes(self) -> int:
        """Memory that the originals take, in bytes."""
        return sum(original.nbytes for original in self._originals.values())

    @torch.no_grad()
    def put(self, loras: str) -> None:
        """Makes the weights those of a set, as :func:`~sd_inpaint.lora_set.write_loras` has it.

        Raises:
            InvalidLorasError: If there is no such LoRA: an accepted job may outlive the operator's file.
        """
        if loras == self._in_place:
            return
        check_loras(loras, self.adapters)
        chosen = parse_loras(loras)
        touched = {name for lora in chosen for name in self.adapters[lora.name].layers}
        # Whatever fails half-way leaves weights that are nobody's: the next call writes all of them.
        self._in_place, changed = None, self._changed
        self._changed = changed | touched
        for name in sorted(self._changed):
            self._write(name, chosen)
        self._in_place, self._changed = loras, touched

    def text_set(self, loras: str) -> str:
        """Returns what of a set changes the text encoder: equal texts have equal embeddings of every prompt."""
        return ",".join(
            f"{name}:{weight:g}"
            for name, weight in parse_loras(loras)
            if name in self.adapters and "text_encoder" in self.adapters[name].components
        )

    def _write(self, name: str, chosen: Sequence[LoraWeight]) -> None:
        """Writes one weight: the original, and what each LoRA adds, summed in float32."""
        weight, original = self._weights[name], self._originals[name]
        parts = [
            (layer, lora.weight) for lora in chosen if (layer := self.adapters[lora.name].layers.get(name)) is not None
        ]
        if not parts:
            weight.copy_(original)
            return
        # A convolution's window counts to its inputs, whatever the order in which its numbers lie in memory.
        total = original.flatten(1).to(torch.float32, copy=True)
        for layer, factor in parts:
            down, up = (matrix.to(weight.device, torch.float32) for matrix in (layer.down, layer.up))
            total.addmm_(up, down, alpha=factor * layer.scale)
        weight.copy_(total.view(original.shape))


def _weight(components: Mapping[str, torch.nn.Module], name: str) -> torch.Tensor:
    component, _, parameter = name.partition(".")
    return components[component].get_parameter(parameter)
