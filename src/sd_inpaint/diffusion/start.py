"""Settings → a backend, with the weights read from the disk while the libraries load. No torch until they do."""

from typing import TYPE_CHECKING

from sd_inpaint.diffusion.sources import Verification
from sd_inpaint.settings import Settings

if TYPE_CHECKING:
    from sd_inpaint.diffusion.denoiser import Denoiser


def load(settings: Settings) -> "Denoiser":
    """As :func:`sd_inpaint.diffusion.weights.load`, in less time."""
    verification = Verification.begin(settings)
    # torch, diffusers and transformers take seconds.
    from sd_inpaint.diffusion import weights

    return weights.load(settings, verification)
