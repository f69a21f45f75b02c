"""The safety checker that ships with Stable Diffusion: a flag on a picture, never a change of it."""

from typing import Any

import numpy as np
import torch
from PIL import Image


class SafetyChecker:
    """Says whether a painted canvas is flagged. Lives as long as the model; only the device thread may call it.

    Source: StableDiffusionSafetyChecker (CLIP ViT-L/14 against fixed concepts), which diffusers runs too; where
    diffusers blackens a flagged picture and returns it, here it becomes an error.

    Args:
        checker: The loaded module, on its device.
        processor: Scales and normalises a picture for CLIP.
    """

    def __init__(self, checker: Any, processor: Any) -> None:
        self._checker = checker
        self._processor = processor

    @torch.inference_mode()
    def flags(self, canvas: np.ndarray) -> bool:
        """Takes (H, W, 3) uint8; True where the checker would not show it."""
        pixels = self._processor(images=Image.fromarray(canvas), return_tensors="pt").pixel_values
        # The module blackens what it flags, in the list it is given: one throw-away pixel.
        _, flagged = self._checker(
            clip_input=pixels.to(self._checker.device, self._checker.dtype), images=[np.zeros((1, 1, 3))]
        )
        return bool(flagged[0])
