"""How much detail a picture has, and a loss of it: a haze has the least mean error, and is not a picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F

PART = 16  # pixels along each side of a part of a picture whose detail is compared
LEAST_DETAIL = 0.02  # mean square of the differences of neighbours, in [-1, 1]; less counts as so much


def detail(pictures: torch.Tensor) -> torch.Tensor:
    """Mean square of each pixel's differences from its neighbours, (B, 1, H, W); the mean is over colours."""
    across = F.pad(pictures.diff(dim=-1), (0, 1, 0, 0)).square() + F.pad(pictures.diff(dim=-2), (0, 0, 0, 1)).square()
    return across.mean(1, keepdim=True)


def detail_loss(painted: torch.Tensor, pictures: torch.Tensor, holes: torch.Tensor) -> torch.Tensor:
    """How far the logarithm of the hole's detail is off, as a whole and in its parts on an average.

    Where the detail lies cannot be guessed; so of parts alone the median would be learnt, and the whole would have less
    than there was.

    Args:
        painted: (B, 3, H, W) in [-1, 1].
        pictures: What was there, (B, 3, H, W).
        holes: (B, 1, H, W) of 0 and 1.

    Returns:
        (B,), at least 0; 0.7 is a factor of two.
    """
    floor = LEAST_DETAIL**2
    logs = []
    for x in (painted, pictures):
        inside = detail(x) * holes
        parts = F.avg_pool2d(inside, PART) / F.avg_pool2d(holes, PART).clamp(min=1e-3)
        whole = inside.sum((1, 2, 3)) / holes.sum((1, 2, 3)).clamp(min=1)
        logs.append(((parts + floor).log(), (whole + floor).log()))
    place = (F.avg_pool2d(holes, PART) > 0.3).float()
    (parts, whole), (wanted_parts, wanted_whole) = logs
    of_parts = ((parts - wanted_parts).abs() * place).sum((1, 2, 3)) / place.sum((1, 2, 3)).clamp(min=1)
    return (whole - wanted_whole).abs() + of_parts
