"""The painted part's colours, brought to those of its surroundings."""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

SURROUNDINGS: Final = 64
"""Pixels around the mask whose colours count: several latent cells, and few enough that a far wall has no say."""


def match_surroundings(
    painted: npt.NDArray[np.uint8], original: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]
) -> None:
    """Shifts the painted pixels by what the model got wrong around them.

    Where the mask is 0 the model was to give the input back, so its error there is known: the autoencoder's tint, or a
    brightness of its own. That error, smoothed, is carried on into the mask from all sides and taken off. Colours
    that the model painted on purpose stay, since nothing inside the mask is looked at.

    Args:
        painted: (H, W, 3), the model's picture, also outside the mask; changed in place where the mask is not 0.
        original: (H, W, 3), the input.
        mask: (H, W), 0 keeps.

    Source: pull-push interpolation, Gortler et al. 1996, "The Lumigraph", section 3.4.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return
    box = (
        slice(max(0, rows[0] - SURROUNDINGS), rows[-1] + SURROUNDINGS + 1),
        slice(max(0, columns[0] - SURROUNDINGS), columns[-1] + SURROUNDINGS + 1),
    )
    known = (mask[box] == 0).astype(np.float32)
    if not known.any():
        return
    error = ((original[box].astype(np.float32) - painted[box]) * known[:, :, None]).astype(np.float32)
    shift = _pull_push(error, known)
    changed = known == 0
    part = painted[box]
    part[changed] = np.clip(np.rint(part[changed] + shift[changed]), 0, 255).astype(np.uint8)


def _pull_push(values: npt.NDArray[np.float32], weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Fills (H, W, 3) values where the (H, W) weights are 0, smoothly, from where they are not.

    Values come multiplied by their weights, 0 to 1. Pulling makes ever coarser means; pushing takes a finer level's own
    mean as far as its weight goes, and the coarser one for the rest.
    """
    height, width = weights.shape
    if min(height, width) < 3:
        return np.broadcast_to(values.sum((0, 1)) / max(float(weights.sum()), 1e-6), values.shape)
    coarse_values = np.asarray(cv2.pyrDown(values), np.float32)
    coarse_weights = np.asarray(cv2.pyrDown(weights), np.float32)
    # Sparse means count in full on the next level, or a wide hole would be filled from the coarsest one alone.
    gain = 1 / np.maximum(coarse_weights, 0.25)
    coarse = _pull_push(coarse_values * gain[:, :, None], np.minimum(coarse_weights * gain, 1))
    finer = np.asarray(cv2.pyrUp(coarse, dstsize=(width, height)), np.float32)
    return values + finer * (1 - weights[:, :, None])
