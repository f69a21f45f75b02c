"""torch.compile for the networks, prepared beside the service: no canvas ever waits for a compiler."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D

from sd_inpaint.diffusion.runner import EagerRunner, Shape

REPEATED: Final = (BasicTransformerBlock, ResnetBlock2D)
"""The blocks that make up nearly all of a network: compiled once, they serve wherever they stand."""

RECOMPILE_LIMIT: Final = 128
"""Forms of one kind of block that are compiled: its widths, times one row or more. torch's own limit is 8, beyond which
it would run the rest as it is, without a word to anybody who does not read its log."""

Compile = Callable[[torch.nn.Module], None]
"""Has a module compile itself at its first calls."""


def compile_block(block: torch.nn.Module) -> None:
    """Has a repeated block compile itself by torch's own compiler, for all sizes at once."""
    block.compile(dynamic=True, recompile_limit=RECOMPILE_LIMIT)


def compile_whole(network: torch.nn.Module) -> None:
    """Has a whole network compile itself, for each size alone."""
    network.compile(dynamic=False, recompile_limit=RECOMPILE_LIMIT)


class CompiledRunner(EagerRunner):
    """The networks with their repeated blocks, or all of the UNet, compiled.

    It has modules of its own over the same weights, so that the reference stays what it is, and LoRAs that are put into
    the weights are in both.

    Args:
        unet: Of the model.
        vae: Of the model; only its decoder is compiled.
        for_blocks: For each repeated block.
        for_whole: For the UNet as one, in place of its blocks; None leaves that.
    """

    def __init__(self, unet: Any, vae: Any, for_blocks: Compile, for_whole: Compile | None = None) -> None:
        unet, vae = _sharing_copy(unet), _sharing_copy(vae)
        super().__init__(unet, vae)
        self.plan = f"{'compiled' if for_whole is None else 'static'}-{self.plan.removeprefix('torch-')}"
        # A whole that was compiled for two rows would be compiled again for four.
        self._max_rows = None if for_whole is None else 2
        self._prepared: frozenset[Shape] = frozenset()
        if for_whole is not None:
            for_whole(unet)
        for block in (*repeated(vae.decoder), *(repeated(unet) if for_whole is None else ())):
            for_blocks(block)

    def takes(self, shape: Shape) -> bool:
        """See :meth:`Runner.takes`: the shapes that were prepared."""
        return shape in self._prepared

    def predict_noise(self, sample: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """See :meth:`Runner.predict_noise`."""
        # Schedulers have timesteps of two formats, and the UNet converts them in any case: one is compiled for.
        timesteps = timesteps.float()
        if self._max_rows is None or len(sample) <= self._max_rows:
            return super().predict_noise(sample, timesteps, embeddings)
        parts = (torch.split(tensor, self._max_rows) for tensor in (sample, timesteps, embeddings))
        return torch.cat([super(CompiledRunner, self).predict_noise(*rows) for rows in zip(*parts, strict=True)])

    @torch.inference_mode()
    def prepare(self, shape: Shape) -> None:
        """Compiles whatever a shape needs, by running it with all numbers of rows that make a difference.

        Any thread may call it. Raises what the compiler raises.
        """
        unet, vae = self._unet, self._vae
        # One row is a shape of its own to a compiler; two stand for all others.
        for rows in (1, 2):
            sample = torch.zeros(rows, unet.config.in_channels, shape.height, shape.width, device=unet.device)
            embeddings = torch.zeros(rows, shape.tokens, unet.config.cross_attention_dim, device=unet.device)
            self.predict_noise(sample, torch.zeros(rows, device=unet.device), embeddings)
        self.decode(torch.zeros(1, vae.config.latent_channels, shape.height, shape.width, device=unet.device))
        self._prepared |= {shape}


def _sharing_copy(module: torch.nn.Module) -> Any:
    """Another module with the same weights: those tensors, not copies of them."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def repeated(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Gives the blocks of a network that are compiled."""
    return (part for part in module.modules() if isinstance(part, REPEATED))
