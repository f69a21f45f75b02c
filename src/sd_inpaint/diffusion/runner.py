"""What runs the UNet and the VAE's decoder: one object with one name, which a canvas keeps from its first step on."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sd_inpaint.diffusion.devices import dtype_name


@dataclass(frozen=True, slots=True)
class Shape:
    """What a canvas asks of a runner.

    Attributes:
        height: Rows of latent cells.
        width: Columns of latent cells.
        tokens: Length of the prompt's embeddings.
    """

    height: int
    width: int
    tokens: int


class Runner(Protocol):
    """The two networks that a canvas runs through, in one way of computing them.

    Two runners may round differently, so a canvas keeps the one that it began with, and only canvases of one runner
    share a call. Only the device thread calls a runner. Its tensors are float32 on the model's device; a runner casts
    inside.

    Attributes:
        plan: Its name, such as ``torch-bfloat16``: the same name means the same rounding. Callers see it.
        follows_weights: Whether it computes with the networks' weights as they are at each call. One that made a copy
            of them does not, and so runs no canvas with LoRAs.
    """

    plan: str
    follows_weights: bool

    def takes(self, shape: Shape) -> bool:
        """Whether it is ready for canvases of this shape, so that none would wait for it to be prepared."""

    def predict_noise(self, sample: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """Runs the UNet once.

        Args:
            sample: (B, 9, h, w): latents, hole, and the latents of the picture without its hole.
            timesteps: (B,).
            embeddings: (B, L, D).

        Returns:
            (B, 4, h, w), the caller's own.

        Raises:
            RunnerFailedError: If it cannot, and another runner is to be asked.
        """

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Runs the VAE's decoder over unscaled (B, 4, h, w) latents; returns (B, 3, H, W), the caller's own."""

    def release_memory(self) -> None:
        """Gives back what can be made again."""


class RunnerFailedError(Exception):
    """A runner cannot run a network that the reference can."""


class EagerRunner:
    """PyTorch, one operation after another: the reference."""

    follows_weights = True

    def __init__(self, unet: Any, vae: Any) -> None:
        self._unet = unet
        self._vae = vae
        self.plan = f"torch-{dtype_name(unet.dtype)}"

    def takes(self, shape: Shape) -> bool:
        """See :meth:`Runner.takes`: every shape."""
        del shape
        return True

    def predict_noise(self, sample: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """See :meth:`Runner.predict_noise`."""
        dtype = self._unet.dtype
        noise: torch.Tensor = self._unet(
            sample.to(dtype), timesteps, encoder_hidden_states=embeddings.to(dtype), return_dict=False
        )[0]
        return noise.float()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """See :meth:`Runner.decode`."""
        return decode(self._vae, latents)

    def release_memory(self) -> None:
        """Does nothing: it keeps nothing."""


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Runs an autoencoder's decoder as torch does, over what :meth:`Runner.decode` takes."""
    picture: torch.Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
    return picture.float()
