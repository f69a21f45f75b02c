"""Whether a converted UNet computes what torch's does: a converter's mistake is found before a picture is painted."""

from collections.abc import Mapping
from typing import Any, Final

import torch

from sd_inpaint.diffusion.runner import Runner

TOLERANCE: Final = 0.1
"""Of the output's standard deviation, root mean square. Measured at full size: 0.013 between the two in bfloat16."""

CELLS: Final = 16
"""Side of the latents: a tenth of a second."""

TOKENS: Final = 77
"""Of the prompt."""


def check_agreement(reference: Runner, runner: Runner, config: Mapping[str, Any]) -> None:
    """Compares two runners of one UNet on a call of random numbers.

    Args:
        reference: Torch's.
        runner: The other.
        config: The UNet's.

    Raises:
        RuntimeError: If they differ by more than their rounding.
    """
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(1, int(config["in_channels"]), CELLS, CELLS, generator=generator)
    embeddings = torch.randn(1, TOKENS, int(config["cross_attention_dim"]), generator=generator)
    call = sample, torch.full((1,), 500.0), embeddings
    with torch.inference_mode():
        expected = reference.predict_noise(*call)
    error = float((runner.predict_noise(*call) - expected).square().mean().sqrt() / expected.std())
    if not error < TOLERANCE:
        raise RuntimeError(
            f"the converted model's output differs from torch's by {error:.2g} of its standard deviation"
        )
