"""Pictures the VAE has encoded before: another seed or another prompt for the same picture does not encode it again."""

import hashlib
from collections import OrderedDict
from typing import Final

import numpy as np
import torch

from sd_inpaint.diffusion.model import InpaintModel

CACHED_BYTES: Final = 32 * 1024 * 1024
"""On the device: some 250 canvases of 512×512, of which each takes 131 kB."""


class Encodings:
    """Encodes pictures, each once. Lives as long as the model; only the device thread may call it."""

    def __init__(self, model: InpaintModel, max_bytes: int = CACHED_BYTES) -> None:
        self._model = model
        self._max_bytes = max_bytes
        self._bytes = 0
        self._posteriors: OrderedDict[bytes, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()

    def encode(
        self, image: np.ndarray, hole: np.ndarray | None = None, *, low_memory: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns mean and standard deviation of a picture's latents, each (1, 4, H/s, W/s), scaled.

        Args:
            image: (H, W, 3) uint8.
            hole: (H, W) bool: what is at mid-grey instead; None leaves the picture whole.
            low_memory: Whether the VAE works in tiles, which changes the result a little.
        """
        key = _key(image, hole, low_memory)
        found = self._posteriors.get(key)
        if found is not None:
            self._posteriors.move_to_end(key)
            return found
        picture = to_tensor(image).to(self._model.device)
        if hole is not None:
            picture = picture * (1 - torch.from_numpy(hole)[None, None].float().to(self._model.device))
        posterior = self._model.encode(picture, low_memory=low_memory)
        self._keep(key, posterior)
        return posterior

    def forget(self) -> None:
        """Gives the memory back."""
        self._posteriors.clear()
        self._bytes = 0

    def _keep(self, key: bytes, posterior: tuple[torch.Tensor, torch.Tensor]) -> None:
        self._posteriors[key] = posterior
        self._bytes += _size(posterior)
        while self._bytes > self._max_bytes:
            _, oldest = self._posteriors.popitem(last=False)
            self._bytes -= _size(oldest)


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 → (1, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255.0 * 2.0 - 1.0


def _key(image: np.ndarray, hole: np.ndarray | None, low_memory: bool) -> bytes:
    digest = hashlib.sha256(f"{image.shape} {hole is not None} {low_memory}".encode())
    digest.update(np.ascontiguousarray(image).data)
    if hole is not None:
        digest.update(np.packbits(hole).data)
    return digest.digest()


def _size(posterior: tuple[torch.Tensor, torch.Tensor]) -> int:
    return sum(tensor.element_size() * tensor.nelement() for tensor in posterior)
